"""Compute scores of a learning curve whose steps increase and whose values are finite (see `read_log`)."""

import numpy as np
from scipy.integrate import trapezoid


def steps_to_threshold(steps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """Return the first logged step at which a curve is at or above a threshold; inf if it never is."""
    reached = returns >= threshold
    return float(steps[reached.argmax()]) if reached.any() else np.inf


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> float:
    """Return the mean return over training: a curve's integral by trapezoids, divided by its range of steps.

    Raises:
        ValueError: the curve has only one step.
    """
    if steps[0] == steps[-1]:
        raise ValueError(f"the area under a curve needs two different steps, got only {steps[0]:g}")
    return float(trapezoid(returns, steps) / (steps[-1] - steps[0]))
