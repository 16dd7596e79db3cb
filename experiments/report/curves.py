"""Average curves of logged metrics over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from experiments.report.pooling import FEW_SEEDS, Group
from experiments.report.run_files import RETURN, STEPS
from experiments.report.run_record import RunRecord
from experiments.report.statistics import Interval, bootstrap_interval, iqm

POINTS = 200
RESAMPLES = 500  # fewer than by default, since a curve has 200 intervals


@dataclass(frozen=True)
class Metric:
    """A quantity that is logged per update.

    Attributes:
        title: title of its plot.
        columns: names of its column in progress.csv; the first one that a run has is used.
        logarithmic: whether to average its logarithm and to use a logarithmic axis.
        meaning: its description in the report.
        limits: smallest and largest possible value, to which the band is clipped.
    """

    title: str
    columns: tuple[str, ...]
    logarithmic: bool
    meaning: str
    limits: tuple[float, float] = (-np.inf, np.inf)


GEOMETRY = {
    "evaluation": Metric(
        "evaluation return",
        ("eval/mean_reward",),
        False,
        "Mean return of the deterministic episodes of each evaluation during training (`--eval-every`).",
    ),
    "cost": Metric(
        "cost per episode",
        ("rollout/ep_cost_mean", "rollout/ep_cost_mean_0"),
        False,
        "Mean sum of the costs of the episodes that ended in a rollout, with sampled actions, which CPO "
        "limits; of several costs the first.",
    ),
    "kl": Metric(
        "KL(old ‖ new) [nats]",
        ("npg/kl", "train/kl_divergence_loss", "train/approx_kl"),
        True,
        "How far an update moved the policy, joint over action dimensions, mean over states.",
    ),
    "step_length": Metric(
        "step length ‖d‖", ("npg/step_length",), True, "How far it moved in the space of parameters."
    ),
    "cosine": Metric(
        "cosine of g and the step",
        ("npg/cosine",),
        False,
        "How far the metric turned the gradient g: the step is along F⁻¹g for NPG, TRPO and ACKTR, and along "
        "Adam's direction for VPG; 1 is no turn.",
        limits=(-1.0, 1.0),
    ),
    "cg_residual": Metric(
        "CG residual ‖b - Ax‖ / ‖b‖",
        ("npg/cg_residual",),
        True,
        "How exactly conjugate gradient solved for F⁻¹g.",
    ),
}


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve with its 95 % band, (points,) each; the band is NaN for a single run.

    Attributes:
        x: environment steps, seconds, or scores.
        estimate: the average over runs.
        low: lower end of the band.
        high: upper end of the band.
        runs: the curves of the single runs, (runs, points), to be drawn instead of the band; none if there
            are at least `FEW_SEEDS` runs, or only one.
    """

    x: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(cls, x: np.ndarray, interval: Interval) -> "Curve":
        """Return the curve of an interval whose items belong to the values of x."""
        return cls(x, interval.estimate, interval.low, interval.high)


def learning_curve(
    group: Group, *, over_seconds: bool = False, generator: np.random.Generator
) -> Curve | None:
    """Return the IQM of the training return over environment steps, or over seconds of training.

    Return None if the runs have no range in common, e.g. if all times of a short run, in whole seconds, are
    equal.
    """
    curves = [record.series(RETURN, record.clock if over_seconds else STEPS) for record in group.records]
    return averaged(curves, generator)


def geometry_curve(group: Group, name: str, *, generator: np.random.Generator) -> Curve | None:
    """Return the IQM of a metric over environment steps; None if its curves have no range in common."""
    metric = GEOMETRY[name]
    curves = []
    for record in group.records:
        steps, values = metric_series(record, name)
        if metric.logarithmic:  # a rejected step has length 0
            steps, values = steps[values > 0], np.log10(values[values > 0])
        if steps.size > 1:
            curves.append((steps, values))
    curve = averaged(curves, generator) if curves else None
    if curve is None:
        return None
    if metric.logarithmic:
        return Curve(curve.x, 10**curve.estimate, 10**curve.low, 10**curve.high, 10**curve.runs)
    return replace(curve, low=np.clip(curve.low, *metric.limits), high=np.clip(curve.high, *metric.limits))


def metric_series(record: RunRecord, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values of a metric; empty if the run does not log it.

    An update is logged in the row of the next rollout, so it was made after the steps of the row before. The
    KL of sb3-contrib's TRPO is converted to the joint KL; the result is empty if the factor is unknown.
    """
    column = metric_column(record, name)
    if column is None:
        return np.empty(0), np.empty(0)
    values = record.log[column]
    known = np.isfinite(values)
    steps, values = np.concatenate([[0.0], record.log[STEPS][:-1]])[known], values[known]
    if name == "kl" and record.algorithm == "contrib:trpo":
        factor = joint_factor(record)
        return (steps, values * factor) if factor is not None else (np.empty(0), np.empty(0))
    return steps, values


def metric_column(record: RunRecord, name: str) -> str | None:
    """Return the name of the column in which a run logs a metric, or None."""
    return next((c for c in GEOMETRY[name].columns if record.series(c)[0].size), None)


def joint_factor(record: RunRecord) -> float | None:
    """Return the factor from the KL that sb3-contrib logs, a mean over action dimensions, to the joint KL.

    Return None if it is unknown.
    """
    joint, own = (record.settings.get(key) for key in ("target_kl_joint", "target_kl"))
    if isinstance(joint, int | float) and isinstance(own, int | float) and own > 0:
        return joint / own if math.isfinite(joint / own) else None
    return None


def averaged(curves: Sequence[tuple[np.ndarray, np.ndarray]], generator: np.random.Generator) -> Curve | None:
    """Return the IQM of curves, on a grid over the range that they have in common; None if there is none."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start >= end:
        return None
    grid = np.linspace(start, end, POINTS)
    values = np.stack([np.interp(grid, x, y) for x, y in curves], axis=-1)
    curve = Curve.of(grid, bootstrap_interval(iqm, [values], generator=generator, resamples=RESAMPLES))
    return replace(curve, runs=values.T) if 1 < len(curves) < FEW_SEEDS else curve
