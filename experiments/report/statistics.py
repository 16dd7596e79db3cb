"""What a few runs say about an algorithm: aggregates over tasks and runs, with intervals.

Scores come as `Strata`, one array a task with its runs along the last axis, shape (..., runs). Leading axes,
such as the points of a learning curve, are the same for all tasks and stay in the result. Scores of several
tasks must be normalised first: nothing here makes them comparable. The aggregates are those of Agarwal et
al. (2021), "Deep reinforcement learning at the edge of the statistical precipice".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import norm, t, trim_mean

Strata = Sequence[np.ndarray]
Statistic = Callable[[Strata], Any]
ELEMENTS = 2**20  # scores that are resampled at a time: bounds the memory


@dataclass(frozen=True)
class Interval:
    """An estimate between its confidence bounds, numbers or arrays of one shape."""

    estimate: Any
    low: Any
    high: Any


def checked(strata: Strata, name: str = "strata") -> list[np.ndarray]:
    """Return the tasks' scores as floats.

    Raises:
        ValueError: there are none, they are not finite, or leading axes differ between tasks.
    """
    tasks = [np.asarray(scores, dtype=float) for scores in strata]
    if not tasks:
        raise ValueError(f"{name} holds no task; pass one array of scores a task")
    for k, scores in enumerate(tasks):
        found = f"{name}[{k}] of shape {scores.shape}"
        if scores.ndim == 0 or scores.size == 0:
            raise ValueError(f"{found} holds no runs; pass a list of arrays, one a task, runs last")
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{found} has {(~np.isfinite(scores)).sum()} non-finite scores; leave those runs out"
            )
        if scores.shape[:-1] != tasks[0].shape[:-1]:
            raise ValueError(f"{found} must have the leading axes of {name}[0], {tasks[0].shape[:-1]}")
    return tasks


def iqm(strata: Strata) -> Any:
    """Return the interquartile mean, (...): the mean of the middle half of all tasks' runs together.

    A task with more runs weighs more.
    """
    return trim_mean(np.concatenate(checked(strata), axis=-1), 0.25, axis=-1)


def mean(strata: Strata) -> Any:
    """Return the mean over tasks of the tasks' means, (...)."""
    return np.mean([scores.mean(axis=-1) for scores in checked(strata)], axis=0)


def median(strata: Strata) -> Any:
    """Return the median over tasks of the tasks' means, (...); of ONE task the median of its runs."""
    tasks = checked(strata)
    if len(tasks) == 1:
        return np.median(tasks[0], axis=-1)
    return np.median([scores.mean(axis=-1) for scores in tasks], axis=0)


def optimality_gap(strata: Strata, target: float = 1.0) -> Any:
    """Return the mean over tasks of mean max(target - score, 0), (...): what scores lack."""
    return mean([np.maximum(target - scores, 0.0) for scores in checked(strata)])


def bootstrap_interval(
    statistic: Statistic,
    strata: Strata,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return a statistic with its stratified-bootstrap t interval, estimate ± t · standard error.

    Whole runs are resampled within each task, so that a curve stays together and its interval is pointwise.
    With few runs the percentile interval is too narrow: it covers a Gaussian mean in 83 % of cases at 5 runs,
    and Hesterberg's expanded one ("What teachers should know about the bootstrap", 2015), which never leaves
    the range of the runs, in 92 %, at 3 runs in 75 %. So his correction is made to the width instead:

    - The bootstrap's variance V* is multiplied by V* / V**, where V** is the variance of resamples of
      resamples: what resampling lost once it loses again. Of a mean this is n / (n - 1). Never below 1.
    - t has Welch and Satterthwaite's degrees of freedom, (Σ v_k)² / Σ (v_k² / (n_k - 1)), v_k being task k's
      part of the variance by the jackknife. It is Σ (n_k - 1) where tasks are alike, less where one task has
      the spread, and serves tasks of different numbers of runs.

    Measured on Gaussian runs, in %; 10 000 simulations (2 000 at 30 and for tasks of means 0, 1, 3, 10):

        runs a task               3     5    10    30
        mean, one task         95.2  95.0  94.5  94.8     percentile: 74.8  83.3  89.8  92.9
        mean, four tasks       97.1  96.1  95.3  94.9                 83.9  89.9  93.3  93.8
        IQM, one task          95.2  96.7  95.6  94.4                 74.8  89.8  92.9  93.6
        IQM, four tasks        96.0  95.6  94.8  95.1                 79.2  88.1  91.5  93.8

    Of skewed scores it covers less (exponential, mean of 5 runs: 88 %), and bounds may lie beyond what a
    score can be.

    Args:
        statistic: reduces the last axis of every task and keeps the leading ones, as `iqm` does.
        strata: one array (..., runs) a task. A task with one run leaves the spread unknown: the bounds are
            nan. Runs that are all equal show none: the bounds are the estimate, which is no certainty.
        generator: draws the resamples, the same ones whatever the scores.
        level: the probability with which the interval is to cover the statistic of infinitely many runs.
        resamples: of each kind; the statistic is taken of three times as many.

    Raises:
        ValueError: scores are missing or not finite, the statistic does not keep leading axes, or the level
            or the number of resamples makes no sense.
    """
    tasks, upper = checked(strata), upper_tail(level)
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    estimate = np.asarray(statistic(tasks))
    if estimate.shape != tasks[0].shape[:-1]:
        raise ValueError(
            f"statistic must reduce axis -1 alone, but made {estimate.shape} of {tasks[0].shape}"
        )
    runs = [scores.shape[-1] for scores in tasks]
    if min(runs) == 1:
        unknown = np.full(estimate.shape, np.nan)[()]
        return Interval(estimate[()], unknown, unknown)

    def drawn_from(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [np.take_along_axis(i, generator.integers(i.shape[1], size=i.shape), axis=1) for i in rows]

    once = drawn_from([np.tile(np.arange(n), (resamples, 1)) for n in runs])
    twice, again = drawn_from(once), drawn_from(once)
    variance = replicates(statistic, tasks, once).var(axis=-1)
    # Two resamples of one resample differ by twice its variance on average, with no loop inside the loop.
    difference = replicates(statistic, tasks, twice) - replicates(statistic, tasks, again)
    nested = np.mean(difference**2, axis=-1) / 2
    ratio = np.divide(variance, nested, out=np.ones_like(variance), where=nested > 0)
    error = np.sqrt(variance * np.maximum(ratio, 1.0))
    half = t.ppf(upper, degrees_of_freedom(statistic, tasks)) * error
    return Interval(estimate[()], (estimate - half)[()], (estimate + half)[()])


def replicates(statistic: Statistic, tasks: Strata, picks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the statistic of resampled runs, (..., resamples); picks (resamples, runs) name runs."""
    rows = max(1, ELEMENTS // sum(scores.size for scores in tasks))
    starts = range(0, len(picks[0]), rows)
    parts = ([x[..., i[s : s + rows]] for x, i in zip(tasks, picks, strict=True)] for s in starts)
    return np.concatenate([statistic(part) for part in parts], axis=-1)


def degrees_of_freedom(statistic: Statistic, tasks: list[np.ndarray]) -> np.ndarray:
    """Return Welch and Satterthwaite's degrees of freedom, (...), by leaving out each run of each task."""
    freedom = np.array([scores.shape[-1] - 1 for scores in tasks])
    variances = np.empty((len(tasks), *tasks[0].shape[:-1]))
    for k, scores in enumerate(tasks):
        fewer = (np.delete(scores, i, axis=-1) for i in range(scores.shape[-1]))
        without = [statistic([*tasks[:k], left, *tasks[k + 1 :]]) for left in fewer]
        variances[k] = freedom[k] * np.var(without, axis=0)
    total = variances.sum(axis=0)
    shares = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    inverse = np.tensordot(1 / freedom, shares**2, axes=1)
    # Where no single run matters, as to a median among equals, the cautious end.
    return np.divide(1.0, inverse, out=np.full_like(inverse, freedom.min()), where=inverse > 0)


def probability_of_improvement(x: Strata, y: Strata) -> Any:
    """Return the mean over tasks of P(X > Y) + P(X = Y) / 2, (...): Mann and Whitney's U over its maximum."""
    return np.mean(win_rates(x, y), axis=0)


def improvement_interval(x: Strata, y: Strata, *, level: float = 0.95) -> Interval:
    """Return the probability of improvement with its score interval (Newcombe 2006, method 5).

    Not a bootstrap: where all runs of x beat all of y, every resample says 1. Of a true 0.98 the percentile
    interval covers 26 % at 5 runs each and 56 % at 10, this one 94 and 96 %; of 0.5 at 3 runs, 90 %. The
    bounds lie in [0, 1] and apart, even for one run each; nothing is random. Several tasks: `score_interval`.
    """

    def variance(k: int, p: np.ndarray) -> np.ndarray:
        n, m = np.shape(x[k])[-1], np.shape(y[k])[-1]
        return p * (1 - p) * (1 + ((n + m) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))) / (n * m)

    return score_interval(win_rates(x, y), variance, level)


def win_rates(x: Strata, y: Strata) -> np.ndarray:
    """Return P(X > Y) + P(X = Y) / 2 of every task, (tasks, ...)."""
    ours, theirs = checked(x, "x"), checked(y, "y")
    if len(ours) != len(theirs) or ours[0].shape[:-1] != theirs[0].shape[:-1]:
        shapes = [[scores.shape for scores in tasks] for tasks in (ours, theirs)]
        raise ValueError(f"x and y must differ in runs alone, but x has shapes {shapes[0]}, y {shapes[1]}")
    signs = (np.sign(a[..., :, None] - b[..., None, :]) for a, b in zip(ours, theirs, strict=True))
    return np.array([(1 + sign.mean(axis=(-2, -1))) / 2 for sign in signs])


def performance_profile(strata: Strata, thresholds: np.ndarray) -> Any:
    """Return the fraction of runs above each threshold, averaged over tasks, (..., thresholds)."""
    return np.mean(fractions_above(strata, thresholds), axis=0)


def profile_interval(strata: Strata, thresholds: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the performance profile with its pointwise score interval, of one task Wilson's (1927)."""
    fractions = fractions_above(strata, thresholds)
    return score_interval(fractions, lambda k, p: p * (1 - p) / np.shape(strata[k])[-1], level)


def fractions_above(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Return the fraction of runs above each threshold in every task, (tasks, ..., thresholds)."""
    thresholds = np.asarray(thresholds, dtype=float)
    if thresholds.ndim != 1 or not thresholds.size or np.isnan(thresholds).any():
        raise ValueError(f"thresholds must be a vector of numbers, got {thresholds}")
    return np.array([(x[..., None, :] > thresholds[:, None]).mean(axis=-1) for x in checked(strata)])


def score_interval(shares: np.ndarray, variance: Callable[..., np.ndarray], level: float) -> Interval:
    """Return the mean over tasks of probabilities with the values that a score test does not reject.

    A value is rejected if it is further from the estimate than z standard errors *under that value*, which
    are not zero where the estimate's own are. For the lower values every task's probability shrinks in
    proportion, for the upper ones its complement does.

    Args:
        shares: the tasks' estimates in [0, 1], (tasks, ...).
        variance: of task k's estimate were its probability p, as variance(k, p); symmetric in p and 1 - p.
        level: of confidence.
    """
    z = norm.ppf(upper_tail(level))

    def low(shares: np.ndarray) -> np.ndarray:
        estimate = shares.mean(axis=0)
        kept, rejected = np.ones_like(estimate), np.zeros_like(estimate)  # as fractions of the estimate
        for _ in range(60):
            middle = (kept + rejected) / 2
            spread = sum(variance(k, middle * p) for k, p in enumerate(shares)) / len(shares) ** 2
            reject = ((1 - middle) * estimate) ** 2 > z**2 * spread
            kept, rejected = np.where(reject, kept, middle), np.where(reject, middle, rejected)
        return kept * estimate

    return Interval(shares.mean(axis=0)[()], low(shares)[()], (1 - low(1 - shares))[()])


def upper_tail(level: float) -> float:
    """Return the probability below an interval's upper bound."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level}")
    return (1 + level) / 2


def steps_to_threshold(steps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """Return the first logged step at which a curve is at or above a threshold; inf if it never is."""
    if np.isnan(threshold):
        raise ValueError("threshold is nan; pass the return to be reached")
    steps, returns = logged(steps, returns)
    reached = returns >= threshold
    return float(steps[reached.argmax()]) if reached.any() else np.inf


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> float:
    """Return the mean return over training: a curve's trapezoid integral over its steps' range."""
    steps, returns = logged(steps, returns)
    if steps[0] == steps[-1]:
        raise ValueError(f"the area under a curve needs two different steps, got only {steps[0]:g}")
    return float(trapezoid(returns, steps) / (steps[-1] - steps[0]))


def logged(steps: np.ndarray, returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
