"""Score intervals of probabilities: of improvement of one algorithm over another, and in profiles."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from experiments.report.statistics import Interval, Strata, validated


def improvement_interval(x: Strata, y: Strata, *, level: float = 0.95) -> Interval:
    """Return the probability of improvement with its score interval (Newcombe 2006, method 5).

    The probability is the mean over tasks of P(X > Y) + P(X = Y) / 2, (...), i.e. Mann and Whitney's U
    divided by its maximum.

    This is not a bootstrap, which gives 1 in every resample if all runs of x beat all runs of y. If the true
    probability is 0.98, a percentile interval covers it in 26 % of cases with 5 runs each and in 56 % with
    10; this interval, in 94 % and 96 %. It covers 0.5 in 90 % of cases with 3 runs each. The bounds lie in
    [0, 1] and differ even for one run each, and nothing is random. For several tasks, see `score_interval`.

    Args:
        x: scores of one algorithm.
        y: scores of the other, on the same tasks.
        level: the confidence level.

    Raises:
        ValueError: a score is not finite.
    """

    def variance(k: int, p: np.ndarray) -> np.ndarray:
        n, m = np.shape(x[k])[-1], np.shape(y[k])[-1]
        return p * (1 - p) * (1 + ((n + m) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))) / (n * m)

    return score_interval(win_rates(x, y), variance, level)


def win_rates(x: Strata, y: Strata) -> np.ndarray:
    """Return P(X > Y) + P(X = Y) / 2 for every task, (tasks, ...)."""
    pairs = zip(validated(x), validated(y), strict=True)
    signs = (np.sign(a[..., :, None] - b[..., None, :]) for a, b in pairs)
    return np.array([(1 + sign.mean(axis=(-2, -1))) / 2 for sign in signs])


def profile_interval(strata: Strata, thresholds: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the performance profile with its pointwise score interval; for one task, Wilson's (1927).

    The profile is the fraction of runs above each threshold, averaged over tasks, (..., thresholds).

    Raises:
        ValueError: a score is not finite.
    """
    fractions = np.array([(x[..., None, :] > thresholds[:, None]).mean(axis=-1) for x in validated(strata)])
    return score_interval(fractions, lambda k, p: p * (1 - p) / np.shape(strata[k])[-1], level)


def score_interval(shares: np.ndarray, variance: Callable[..., np.ndarray], level: float) -> Interval:
    """Return the mean over tasks of probabilities, with the interval that a score test does not reject.

    The test rejects a value if it differs from the estimate by more than z standard errors *under that
    value*, which are positive even if those under the estimate are 0. To test values below the estimate, the
    probabilities of all tasks are multiplied by one factor; for values above it, their complements are.

    Args:
        shares: the tasks' estimates in [0, 1], (tasks, ...).
        variance: variance(k, p) is the variance of task k's estimate if its probability is p; symmetric in p
            and 1 - p.
        level: the confidence level.
    """
    z = norm.ppf((1 + level) / 2)

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
