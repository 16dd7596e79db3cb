"""Score intervals of probabilities: improvement of one algorithm over another, and performance profiles."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from experiments.report.statistics import Interval, Strata, validated


def improvement_interval(x: Strata, y: Strata, *, level: float = 0.95) -> Interval:
    """Return the probability of improvement with its score interval (Newcombe 2006, method 5).

    The probability is the mean over tasks of P(X > Y) + P(X = Y) / 2, (...): Mann and Whitney's U over its
    maximum.

    Not a bootstrap: if all runs of x beat all of y, every resample says 1. Of a true 0.98 the percentile
    interval covers 26 % at 5 runs each and 56 % at 10, this one 94 and 96 %; of 0.5 at 3 runs, 90 %. The
    bounds lie in [0, 1] and apart, even for one run each; nothing is random. Several tasks: `score_interval`.
    """

    def variance(k: int, p: np.ndarray) -> np.ndarray:
        n, m = np.shape(x[k])[-1], np.shape(y[k])[-1]
        return p * (1 - p) * (1 + ((n + m) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))) / (n * m)

    return score_interval(win_rates(x, y), variance, level)


def win_rates(x: Strata, y: Strata) -> np.ndarray:
    """Return P(X > Y) + P(X = Y) / 2 of every task, (tasks, ...)."""
    pairs = zip(validated(x), validated(y), strict=True)
    signs = (np.sign(a[..., :, None] - b[..., None, :]) for a, b in pairs)
    return np.array([(1 + sign.mean(axis=(-2, -1))) / 2 for sign in signs])


def profile_interval(strata: Strata, thresholds: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the performance profile with its pointwise score interval; of one task, it is Wilson's (1927).

    The profile is the fraction of runs above each threshold, averaged over tasks, (..., thresholds).
    """
    fractions = np.array([(x[..., None, :] > thresholds[:, None]).mean(axis=-1) for x in validated(strata)])
    return score_interval(fractions, lambda k, p: p * (1 - p) / np.shape(strata[k])[-1], level)


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
