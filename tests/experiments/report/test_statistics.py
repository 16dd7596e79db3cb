"""Aggregates and intervals against hand-computed numbers, SciPy and simulations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from experiments.report.curve_scores import area_under_curve, steps_to_threshold
from experiments.report.score_intervals import improvement_interval, profile_interval
from experiments.report.statistics import (
    Interval,
    Statistic,
    bootstrap_interval,
    degrees_of_freedom,
    iqm,
    mean,
    median,
    optimality_gap,
)

AGGREGATES = [iqm, mean, median, optimality_gap]
UNEQUAL = [np.array([1.0, 2.0, 6.0]), np.array([0.0, 10.0]), np.array([4.0])]


@pytest.fixture
def generator() -> np.random.Generator:
    """A fixed generator."""
    return np.random.default_rng(0)


def test_aggregates_by_hand() -> None:
    """Task means 3, 5, 4; pooled and sorted 0 1 2 4 6 10, of which one leaves at each end."""
    assert mean(UNEQUAL) == 4
    assert median(UNEQUAL) == 4
    assert iqm(UNEQUAL) == (1 + 2 + 4 + 6) / 4
    assert optimality_gap(UNEQUAL, target=5.0) == pytest.approx(((4 + 3) / 3 + 5 / 2 + 1) / 3)
    assert optimality_gap([np.array([0.25, 3.0])]) == 0.375


def test_median_of_one_task_is_that_of_its_runs() -> None:
    """And not its mean, as it is of several tasks."""
    assert median([np.array([0.0, 1.0, 8.0])]) == 1
    assert median([np.array([0.0, 1.0, 8.0]), np.array([5.0])]) == 4


@pytest.mark.parametrize("runs", [1, 2, 3, 5, 8, 30])
def test_iqm_is_scipys_trimmed_mean(generator: np.random.Generator, runs: int) -> None:
    """Of all tasks' runs together, at every number of runs."""
    strata = [generator.normal(size=runs), generator.normal(size=runs + 1)]
    assert iqm(strata) == scipy.stats.trim_mean(np.concatenate(strata), 0.25)


@pytest.mark.parametrize("statistic", AGGREGATES)
def test_leading_axes_are_points(generator: np.random.Generator, statistic: Statistic) -> None:
    """A curve's aggregate is the aggregate at each of its points."""
    strata = [generator.normal(size=(2, 4, 5)), generator.normal(size=(2, 4, 3))]
    whole = statistic(strata)
    assert whole.shape == (2, 4)
    assert whole[1, 2] == pytest.approx(statistic([scores[1, 2] for scores in strata]))


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_interval_of_a_mean_is_students(generator: np.random.Generator, runs: int) -> None:
    """Where theory knows the answer, the bootstrap's differs by its own noise alone."""
    scores = generator.normal(3.0, 2.0, size=runs)
    expected = scipy.stats.t.interval(0.9, runs - 1, loc=scores.mean(), scale=scipy.stats.sem(scores))
    found = bootstrap_interval(mean, [scores], generator=generator, level=0.9, resamples=100_000)
    width = expected[1] - expected[0]
    assert found.estimate == pytest.approx(scores.mean())
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.015 * width)


def test_degrees_of_freedom_are_those_of_welch(generator: np.random.Generator) -> None:
    """Of a difference of two means they are SciPy's, for any numbers of runs."""
    x, y = generator.normal(size=7), generator.normal(0.0, 3.0, size=4)
    expected = scipy.stats.ttest_ind(x, y, equal_var=False).df
    assert degrees_of_freedom(mean, [x, y]) == pytest.approx(expected)


def test_interval_of_means_with_unequal_runs(generator: np.random.Generator) -> None:
    """Half the width of Welch's interval for a difference, for a mean of two means."""
    x, y = generator.normal(size=7), generator.normal(0.0, 3.0, size=4)
    welch = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    found = bootstrap_interval(mean, [x, y], generator=generator, resamples=100_000)
    assert found.high - found.low == pytest.approx((welch.high - welch.low) / 2, rel=0.03)


def coverage(statistic: Statistic, tasks: int, runs: int, simulations: int) -> float:
    """Return how often the interval covers the truth in Gaussian tasks with means 0, 1, 2, ..."""
    generator, batches, truth = np.random.default_rng(6), 20, (tasks - 1) / 2
    covered = 0
    # The simulations of a batch share their resamples, whose noise the batches average.
    for _ in range(batches):
        shape = (simulations // batches, runs)
        strata = [k + generator.standard_normal(shape) for k in range(tasks)]
        found = bootstrap_interval(statistic, strata, generator=generator, resamples=300)
        covered += np.count_nonzero((found.low <= truth) & (truth <= found.high))
    return covered / simulations


@pytest.mark.covering(1)
@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_coverage_of_one_task(statistic: Statistic, runs: int) -> None:
    """95 ± 2 % of the intervals cover the mean of a Gaussian, for the fewest runs too."""
    assert 0.93 <= coverage(statistic, tasks=1, runs=runs, simulations=4000) <= 0.97


@pytest.mark.covering(1)
@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_coverage_of_four_tasks(statistic: Statistic, runs: int) -> None:
    """The same over tasks that lie apart."""
    assert 0.93 <= coverage(statistic, tasks=4, runs=runs, simulations=2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_coverage_of_many_runs(statistic: Statistic, tasks: int) -> None:
    """The same at 30 runs a task."""
    assert 0.93 <= coverage(statistic, tasks=tasks, runs=30, simulations=2000) <= 0.97


@pytest.mark.parametrize("statistic", AGGREGATES)
@pytest.mark.parametrize("runs", [(2,), (5,), (3, 8, 4)])
def test_interval_contains_its_estimate(
    generator: np.random.Generator, statistic: Statistic, runs: tuple[int, ...]
) -> None:
    """At every point, with room on both sides."""
    strata = [generator.exponential(0.3, size=(20, n)) for n in runs]
    found = bootstrap_interval(statistic, strata, generator=generator, resamples=200)
    assert found.low.shape == found.estimate.shape == found.high.shape == (20,)
    np.testing.assert_array_equal(found.estimate, statistic(strata))
    assert (found.low < found.estimate).all() and (found.estimate < found.high).all()


@pytest.mark.parametrize("statistic", [iqm, mean, median])
def test_interval_moves_with_the_scores(generator: np.random.Generator, statistic: Statistic) -> None:
    """Shift and scale of the scores are those of the interval; a negative scale swaps its ends."""
    strata = [generator.normal(size=6), generator.normal(size=4)]

    def interval(change: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        found = bootstrap_interval(statistic, [change(x) for x in strata], generator=np.random.default_rng(1))
        return [found.low, found.estimate, found.high]

    low, estimate, high = interval(lambda x: x)
    np.testing.assert_allclose(interval(lambda x: 3 * x + 7), np.array([low, estimate, high]) * 3 + 7)
    np.testing.assert_allclose(interval(lambda x: -x), [-high, -estimate, -low])


def test_one_seed_one_interval(generator: np.random.Generator) -> None:
    """The same generator gives the same interval, another one another."""
    strata = [generator.normal(size=6), generator.normal(size=4)]
    first, again, other = (
        bootstrap_interval(iqm, strata, generator=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_a_point_does_not_depend_on_the_others(generator: np.random.Generator, monkeypatch) -> None:
    """Curves are resampled whole: a point of 300 has the interval that it has alone, whatever the chunks."""
    curves = [generator.normal(size=(300, 5)), generator.normal(size=(300, 4))]
    whole = bootstrap_interval(iqm, curves, generator=np.random.default_rng(1))
    monkeypatch.setattr("experiments.report.statistics.ELEMENTS", 1000)
    alone = bootstrap_interval(iqm, [x[17] for x in curves], generator=np.random.default_rng(1))
    assert whole.low[17] == pytest.approx(alone.low) and whole.high[17] == pytest.approx(alone.high)


def test_wider_for_more_confidence_and_fewer_runs(generator: np.random.Generator) -> None:
    """A level of 99 % is wider than one of 80 %; 20 runs are narrower than 5 on average."""
    scores = generator.normal(size=(50, 20))
    widths = []
    for runs, level in ((20, 0.8), (20, 0.99), (5, 0.8)):
        found = bootstrap_interval(mean, [scores[:, :runs]], generator=generator, level=level)
        widths.append((found.high - found.low).mean())
    assert widths[0] < widths[1] and widths[0] < widths[2]


def test_one_run_has_no_interval(generator: np.random.Generator) -> None:
    """The estimate stands and the bounds are nan, for curves too, if one task has one run."""
    found = bootstrap_interval(mean, [np.array([2.0]), np.array([1.0, 3.0])], generator=generator)
    assert found.estimate == 2 and math.isnan(found.low) and math.isnan(found.high)
    found = bootstrap_interval(iqm, [np.ones((3, 1))], generator=generator)
    assert np.isnan(found.low).all() and found.high.shape == (3,)


def test_equal_runs_show_no_spread(generator: np.random.Generator) -> None:
    """No warning, no nan: the bounds are the estimate."""
    found = bootstrap_interval(iqm, [np.full((2, 5), 0.1)], generator=generator)
    np.testing.assert_allclose([found.low, found.estimate, found.high], 0.1, rtol=1e-12)


def test_improvement_is_mann_whitneys() -> None:
    """U / (n m) of each task, ties counted half, averaged over tasks."""
    generator = np.random.default_rng(3)
    x = [generator.integers(6, size=n).astype(float) for n in (5, 8)]
    y = [generator.integers(6, size=n).astype(float) for n in (7, 3)]
    expected = [
        scipy.stats.mannwhitneyu(a, b).statistic / (a.size * b.size) for a, b in zip(x, y, strict=True)
    ]
    assert improvement_interval(x, y).estimate == pytest.approx(np.mean(expected))
    assert improvement_interval([[2.0, 3.0]], [[1.0, 2.0]]).estimate == (1 + 1 + 1 + 0.5) / 4
    assert improvement_interval(x, y).estimate + improvement_interval(y, x).estimate == pytest.approx(1)


@pytest.mark.parametrize("p", [0.5, 0.76, 0.92, 0.98])
@pytest.mark.parametrize("tasks", [1, 4])
def test_coverage_of_improvement(p: float, tasks: int) -> None:
    """At least 93 % of the intervals at 5 runs hold the truth, where the groups hardly overlap too."""
    generator = np.random.default_rng(8)
    shift = math.sqrt(2) * scipy.stats.norm.ppf(p)
    x = [shift + generator.standard_normal((4000, 5)) for _ in range(tasks)]
    y = [generator.standard_normal((4000, 5)) for _ in range(tasks)]
    found = improvement_interval(x, y)
    covered = np.mean((found.low <= p) & (p <= found.high))
    assert 0.93 <= covered < 0.98


def test_improvement_interval_solves_newcombes_equation() -> None:
    """Of one task, each bound is z standard errors of that bound away from the estimate."""
    x, y = np.array([1.0, 4.0, 5.0, 7.0]), np.array([0.0, 2.0, 4.5])
    found = improvement_interval([x], [y])
    assert found.estimate == (1 + 2 + 3 + 3) / 12
    for p in (found.low, found.high):
        variance = p * (1 - p) * (1 + 2.5 * (1 - p) / (2 - p) + 2.5 * p / (1 + p)) / 12
        assert abs(found.estimate - p) == pytest.approx(scipy.stats.norm.ppf(0.975) * math.sqrt(variance))


@pytest.mark.parametrize("runs", [1, 3, 10])
def test_a_clean_sweep_is_not_certain(runs: int) -> None:
    """All runs better: the estimate is 1, the upper bound 1, the lower one clearly below; and swapped."""
    x, y = [np.full(runs, 2.0)] * 2, [np.full(runs, 1.0)] * 2
    better, worse = improvement_interval(x, y), improvement_interval(y, x)
    assert better.estimate == better.high == 1 and 0.1 < better.low < 0.95
    assert (worse.low, worse.estimate) == (0, 0)
    assert worse.high == pytest.approx(1 - better.low)


def test_profile_by_hand() -> None:
    """Strictly above, and every task weighs the same."""
    thresholds = np.array([-1.0, 1.0, 5.0, 10.0])
    expected = [1, (2 / 3 + 1 / 2 + 1) / 3, (1 / 3 + 1 / 2 + 0) / 3, 0]
    np.testing.assert_allclose(profile_interval(UNEQUAL, thresholds).estimate, expected)


@pytest.mark.parametrize("above", [0, 1, 5, 7])
def test_profile_interval_is_wilsons(above: int) -> None:
    """Of one task, at each threshold."""
    scores = np.arange(7.0)
    found = profile_interval([scores], np.array([6.5 - above]), level=0.9)
    expected = scipy.stats.binomtest(above, 7).proportion_ci(0.9, method="wilson")
    assert found.estimate == pytest.approx([above / 7])
    np.testing.assert_allclose([found.low[0], found.high[0]], [expected.low, expected.high], atol=1e-12)


def test_profile_interval_of_several_tasks(generator: np.random.Generator) -> None:
    """It holds the profile, stays in [0, 1], and falls with the threshold."""
    strata = [generator.normal(size=n) for n in (5, 8, 1)]
    thresholds = np.linspace(-3, 3, 30)
    found = profile_interval(strata, thresholds)
    assert isinstance(found, Interval)
    profile = np.mean([(scores > thresholds[:, None]).mean(axis=1) for scores in strata], axis=0)
    np.testing.assert_array_equal(found.estimate, profile)
    assert ((found.low >= 0) & (found.low <= found.estimate)).all()
    assert ((found.high <= 1) & (found.high >= found.estimate)).all()
    assert (np.diff(found.low) <= 0).all() and (np.diff(found.high) <= 0).all()


def test_steps_to_threshold() -> None:
    """The first step at or above, whatever follows and whatever was not logged."""
    steps, returns = np.array([0, 10, 20, 30, 40]), np.array([math.nan, 1.0, 5.0, math.nan, 2.0])
    assert steps_to_threshold(steps, returns, 5.0) == 20
    assert steps_to_threshold(steps, returns, -3.0) == 10
    assert steps_to_threshold(steps, returns, 5.1) == math.inf
    assert steps_to_threshold(steps, returns, math.inf) == math.inf


def test_area_under_curve() -> None:
    """Trapezoids over uneven steps by hand; a straight line's is its middle, from whatever step."""
    assert area_under_curve(np.array([0, 1, 4]), np.array([2.0, 4.0, 0.0])) == (3 * 1 + 2 * 3) / 4
    steps = np.sort(np.random.default_rng(0).uniform(100, 1000, size=50))
    assert area_under_curve(steps, 3 * steps - 1) == pytest.approx(3 * (steps[0] + steps[-1]) / 2 - 1)


@pytest.mark.parametrize(
    ("strata", "message"),
    [
        ([np.ones(2), np.array([1.0, math.nan])], "task 1 has 1 scores that are not finite"),
        ([np.array([1.0, math.inf])], "not finite"),
    ],
)
def test_bad_scores_are_rejected(generator: np.random.Generator, strata, message: str) -> None:
    """By every function that takes them, saying which task and why."""
    for statistic in AGGREGATES:
        with pytest.raises(ValueError, match=message):
            statistic(strata)
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(mean, strata, generator=generator)
    with pytest.raises(ValueError, match=message):
        profile_interval(strata, np.zeros(1))
    with pytest.raises(ValueError, match=message):
        improvement_interval(strata, [np.ones(2)] * len(strata))


def test_a_single_point_is_rejected() -> None:
    """It has no area."""
    with pytest.raises(ValueError, match="two different steps, got only 7"):
        area_under_curve(np.array([7, 7]), np.array([1.0, 2.0]))
