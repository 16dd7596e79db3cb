"""Backtracking accepts the first scale that it may."""

import pytest

from npg import backtrack


@pytest.mark.parametrize("shrink", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("k", [0, 1, 4])
def test_the_first_acceptable_scale_is_taken(shrink: float, k: int) -> None:
    """The scales tried are exactly 1, shrink, shrink², ..., and the search stops at the first accepted."""
    tried: list[float] = []

    def evaluate(scale: float) -> float:
        tried.append(scale)
        return 10 * scale

    search = backtrack(evaluate, lambda value: value <= 10 * shrink**k, shrink=shrink, max_iterations=9)
    assert tried == [shrink**i for i in range(k + 1)]
    assert (search.scale, search.evaluation) == (shrink**k, 10 * shrink**k)
    assert (search.backtracks, search.accepted) == (k, True)


@pytest.mark.parametrize("max_iterations", [1, 2, 7])
def test_an_exhausted_search_says_so(max_iterations: int) -> None:
    """When nothing is accepted, exactly max_iterations scales were tried and the last is reported."""
    tried: list[float] = []

    def evaluate(scale: float) -> float:
        tried.append(scale)
        return scale

    search = backtrack(evaluate, lambda _: False, shrink=0.5, max_iterations=max_iterations)
    assert len(tried) == max_iterations
    assert not search.accepted
    assert search.backtracks == max_iterations - 1
    assert search.scale == search.evaluation == tried[-1] == 0.5 ** (max_iterations - 1)


def test_nothing_is_evaluated_after_acceptance() -> None:
    """A full step that is accepted costs one evaluation."""
    calls: list[float] = []
    assert backtrack(calls.append, lambda _: True).backtracks == 0
    assert calls == [1.0]


def test_the_last_scale_may_be_the_one_accepted() -> None:
    """Acceptance at the final candidate counts."""
    search = backtrack(lambda s: s, lambda s: s < 0.3, shrink=0.5, max_iterations=3)
    assert search.accepted
    assert search.scale == 0.25


@pytest.mark.parametrize(
    ("shrink", "max_iterations"),
    [(0, 3), (1, 3), (-0.5, 3), (1.5, 3), (float("nan"), 3), (0.5, 0), (0.5, -1)],
)
def test_options_out_of_range_are_rejected(shrink: float, max_iterations: int) -> None:
    """The error comes before anything is evaluated."""
    with pytest.raises(ValueError, match="0 < shrink < 1 and max_iterations"):
        backtrack(pytest.fail, lambda _: True, shrink=shrink, max_iterations=max_iterations)
