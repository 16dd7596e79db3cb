"""Aggregate scores over tasks and a few runs, with bootstrap intervals.

Scores are `Strata`: one array (..., runs) per task. Leading axes, such as the points of a learning curve,
have the same shape for all tasks and are kept in the result. Scores of several tasks must have been
normalised. The aggregates are those of Agarwal et al. (2021), "Deep reinforcement learning at the edge of the
statistical precipice".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t, trim_mean

Strata = Sequence[np.ndarray]
Statistic = Callable[[Strata], Any]
ELEMENTS = 2**20  # number of scores resampled at a time, which limits memory


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence bounds: numbers, or arrays of the same shape."""

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
    """Return the interquartile mean, (...): the mean of the middle half of the runs of all tasks together.

    A task with more runs has more weight.
    """
    return trim_mean(np.concatenate(validated(strata), axis=-1), 0.25, axis=-1)


def mean(strata: Strata) -> Any:
    """Return the mean over tasks of the tasks' means, (...)."""
    return np.mean([scores.mean(axis=-1) for scores in validated(strata)], axis=0)


def median(strata: Strata) -> Any:
    """Return the median over tasks of the tasks' means, (...); for ONE task, the median of its runs."""
    tasks = validated(strata)
    if len(tasks) == 1:
        return np.median(tasks[0], axis=-1)
    return np.median([scores.mean(axis=-1) for scores in tasks], axis=0)


def optimality_gap(strata: Strata, target: float = 1.0) -> Any:
    """Return the mean of max(target - score, 0) over runs and then over tasks, (...)."""
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

    Whole runs are resampled within each task, so that the points of a curve stay together; the interval of a
    curve is pointwise. With few runs the percentile interval is too narrow: it covers a Gaussian mean in 83 %
    of cases with 5 runs. Hesterberg's expanded interval ("What teachers should know about the bootstrap",
    2015) covers it in 92 %, but with 3 runs in 75 %, since it never exceeds the range of the runs. So his
    correction is applied to the width instead:

    - The bootstrap's variance V* is multiplied by V* / V**, where V** is the variance of resamples of
      resamples, since each resampling loses the same fraction of the variance. For a mean this factor is
      n / (n - 1). Factors below 1 are replaced by 1.
    - t has Welch and Satterthwaite's degrees of freedom, (Σ v_k)² / Σ (v_k² / (n_k - 1)), where v_k is task
      k's part of the variance by the jackknife. They are Σ (n_k - 1) if all tasks have the same variance, and
      fewer if one task dominates. Tasks may have different numbers of runs.

    Measured coverage for Gaussian runs in %, from 10 000 simulations (2 000 with 30 runs, and for the four
    tasks, whose means are 0, 1, 3 and 10):

        runs per task             3     5    10    30
        mean, one task         95.2  95.0  94.5  94.8     percentile: 74.8  83.3  89.8  92.9
        mean, four tasks       97.1  96.1  95.3  94.9                 83.9  89.9  93.3  93.8
        IQM, one task          95.2  96.7  95.6  94.4                 74.8  89.8  92.9  93.6
        IQM, four tasks        96.0  95.6  94.8  95.1                 79.2  88.1  91.5  93.8

    For skewed scores, coverage is lower (88 % for the mean of 5 exponentially distributed runs), and bounds
    may be values that a score cannot have.

    Args:
        statistic: reduces the last axis of every task and keeps the leading ones, as `iqm` does.
        strata: one array (..., runs) per task. If a task has only one run, its spread is unknown and the
            bounds are NaN. If all runs are equal, the bounds equal the estimate, which does not mean that it
            is certain.
        generator: draws the resamples, which do not depend on the scores.
        level: the probability with which the interval is to cover the statistic of infinitely many runs.
        resamples: number of resamples; the statistic is computed three times as often.

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
    # The mean squared difference of two resamples of a resample is twice their variance; so no inner loop.
    difference = replicates(statistic, tasks, twice) - replicates(statistic, tasks, again)
    nested = np.mean(difference**2, axis=-1) / 2
    ratio = np.divide(variance, nested, out=np.ones_like(variance), where=nested > 0)
    error = np.sqrt(variance * np.maximum(ratio, 1.0))
    half = t.ppf((1 + level) / 2, degrees_of_freedom(statistic, tasks)) * error
    return Interval(estimate[()], (estimate - half)[()], (estimate + half)[()])


def replicates(statistic: Statistic, tasks: Strata, picks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the statistic of resampled runs, (..., resamples).

    Args:
        statistic: the statistic.
        tasks: the scores.
        picks: indices of the resampled runs, (resamples, runs) per task.
    """
    rows = max(1, ELEMENTS // sum(scores.size for scores in tasks))
    starts = range(0, len(picks[0]), rows)
    parts = ([x[..., i[s : s + rows]] for x, i in zip(tasks, picks, strict=True)] for s in starts)
    return np.concatenate([statistic(part) for part in parts], axis=-1)


def degrees_of_freedom(statistic: Statistic, tasks: list[np.ndarray]) -> np.ndarray:
    """Return Welch and Satterthwaite's degrees of freedom, (...), by the jackknife over runs of each task."""
    freedom = np.array([scores.shape[-1] - 1 for scores in tasks])
    variances = np.empty((len(tasks), *tasks[0].shape[:-1]))
    for k, scores in enumerate(tasks):
        fewer = (np.delete(scores, i, axis=-1) for i in range(scores.shape[-1]))
        without = [statistic([*tasks[:k], left, *tasks[k + 1 :]]) for left in fewer]
        variances[k] = freedom[k] * np.var(without, axis=0)
    total = variances.sum(axis=0)
    shares = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    inverse = np.tensordot(1 / freedom, shares**2, axes=1)
    # If no single run changes the statistic, e.g. a median of equal scores, use the smallest.
    return np.divide(1.0, inverse, out=np.full_like(inverse, freedom.min()), where=inverse > 0)
