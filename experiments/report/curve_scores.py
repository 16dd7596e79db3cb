"""Scores of one learning curve: steps to a threshold, and the area under it."""

import numpy as np
from scipy.integrate import trapezoid


def steps_to_threshold(steps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """Return the first logged step at which a curve is at or above a threshold; inf if it never is."""
    if np.isnan(threshold):
        raise ValueError("threshold is nan; pass the return to be reached")
    steps, returns = valid_curve(steps, returns)
    reached = returns >= threshold
    return float(steps[reached.argmax()]) if reached.any() else np.inf


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> float:
    """Return the mean return over training: a curve's trapezoid integral over its steps' range."""
    steps, returns = valid_curve(steps, returns)
    if steps[0] == steps[-1]:
        raise ValueError(f"the area under a curve needs two different steps, got only {steps[0]:g}")
    return float(trapezoid(returns, steps) / (steps[-1] - steps[0]))


def valid_curve(steps: np.ndarray, returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve, both (points,), without the rows in which a value is nan: nothing was logged there.

    Raises:
        ValueError: lengths differ, nothing is left, a value is infinite, or steps decrease.
    """
    curve = np.asarray(steps, dtype=float), np.asarray(returns, dtype=float)
    if curve[0].ndim != 1 or curve[0].shape != curve[1].shape:
        raise ValueError(f"steps {curve[0].shape} and returns {curve[1].shape} must be vectors of one length")
    x, y = np.array(curve)[:, ~np.isnan(curve).any(axis=0)]
    if not x.size or np.isinf([x, y]).any():
        raise ValueError(
            f"the curve of {len(curve[0])} rows is empty or has infinite values; leave the run out"
        )
    if (np.diff(x) < 0).any():
        raise ValueError("steps decrease along the curve; sort its rows, or separate the runs it mixes")
    return x, y
