"""Aggregate scores over tasks and a few runs, with bootstrap intervals.

Scores are `Strata`, one array per task with its runs along the last axis, shape (..., runs). Leading axes,
such as the points of a learning curve, are the same for all tasks and stay in the result. Scores of several
tasks must be normalised first: nothing here does. The aggregates are those of Agarwal et
al. (2021), "Deep reinforcement learning at the edge of the statistical precipice".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t, trim_mean

Strata = Sequence[np.ndarray]
Statistic = Callable[[Strata], Any]
ELEMENTS = 2**20  # scores resampled at a time, to bound memory


@dataclass(frozen=True)
class Interval:
    """An estimate between its confidence bounds, numbers or arrays of one shape."""

    estimate: Any
    low: Any
    high: Any


def validated(strata: Strata) -> list[np.ndarray]:
    """Return the tasks' scores as floats.

    Raises:
        ValueError: a score is not finite.
    """
    tasks = [np.asarray(scores, dtype=float) for scores in strata]
    for k, scores in enumerate(tasks):
        if not np.isfinite(scores).all():
            bad = (~np.isfinite(scores)).sum()
            raise ValueError(f"task {k} has {bad} scores that are not finite; leave those runs out")
    return tasks


def iqm(strata: Strata) -> Any:
    """Return the interquartile mean, (...): the mean of the middle half of all tasks' runs together.

    A task with more runs weighs more.
    """
    return trim_mean(np.concatenate(validated(strata), axis=-1), 0.25, axis=-1)


def mean(strata: Strata) -> Any:
    """Return the mean over tasks of the tasks' means, (...)."""
    return np.mean([scores.mean(axis=-1) for scores in validated(strata)], axis=0)


def median(strata: Strata) -> Any:
    """Return the median over tasks of the tasks' means, (...); of ONE task the median of its runs."""
    tasks = validated(strata)
    if len(tasks) == 1:
        return np.median(tasks[0], axis=-1)
    return np.median([scores.mean(axis=-1) for scores in tasks], axis=0)


def optimality_gap(strata: Strata, target: float = 1.0) -> Any:
    """Return the mean over tasks of mean max(target - score, 0), (...): what scores lack."""
    return mean([np.maximum(target - scores, 0.0) for scores in validated(strata)])


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
      resamples: resampling loses twice what it loses once. Of a mean this is n / (n - 1). Never below 1.
    - t has Welch and Satterthwaite's degrees of freedom, (Σ v_k)² / Σ (v_k² / (n_k - 1)), v_k being task k's
      part of the variance by the jackknife. It is Σ (n_k - 1) where tasks are alike, less where one task has
      the spread, and serves tasks of different numbers of runs.

    Measured on Gaussian runs, in %; 10 000 simulations (2 000 at 30 and for tasks of means 0, 1, 3, 10):

        runs per task             3     5    10    30
        mean, one task         95.2  95.0  94.5  94.8     percentile: 74.8  83.3  89.8  92.9
        mean, four tasks       97.1  96.1  95.3  94.9                 83.9  89.9  93.3  93.8
        IQM, one task          95.2  96.7  95.6  94.4                 74.8  89.8  92.9  93.6
        IQM, four tasks        96.0  95.6  94.8  95.1                 79.2  88.1  91.5  93.8

    Of skewed scores it covers less (exponential, mean of 5 runs: 88 %), and bounds may lie beyond what a
    score can be.

    Args:
        statistic: reduces the last axis of every task and keeps the leading ones, as `iqm` does.
        strata: one array (..., runs) per task. A task with one run leaves the spread unknown: the bounds are
            nan. Runs that are all equal show none: the bounds are the estimate, which is no certainty.
        generator: draws the resamples, the same ones whatever the scores.
        level: the probability with which the interval is to cover the statistic of infinitely many runs.
        resamples: of each kind; the statistic is taken of three times as many.

    Raises:
        ValueError: a score is not finite.
    """
    tasks = validated(strata)
    estimate = np.asarray(statistic(tasks))
    runs = [scores.shape[-1] for scores in tasks]
    if min(runs) == 1:
        unknown = np.full(estimate.shape, np.nan)[()]
        return Interval(estimate[()], unknown, unknown)

    def drawn_from(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [np.take_along_axis(i, generator.integers(i.shape[1], size=i.shape), axis=1) for i in rows]

    once = drawn_from([np.tile(np.arange(n), (resamples, 1)) for n in runs])
    twice, again = drawn_from(once), drawn_from(once)
    variance = replicates(statistic, tasks, once).var(axis=-1)
    # Two resamples of one resample differ by twice its variance on average, which saves an inner loop.
    difference = replicates(statistic, tasks, twice) - replicates(statistic, tasks, again)
    nested = np.mean(difference**2, axis=-1) / 2
    ratio = np.divide(variance, nested, out=np.ones_like(variance), where=nested > 0)
    error = np.sqrt(variance * np.maximum(ratio, 1.0))
    half = t.ppf((1 + level) / 2, degrees_of_freedom(statistic, tasks)) * error
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
