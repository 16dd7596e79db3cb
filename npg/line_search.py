"""Backtracking line search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class LineSearch(Generic[T]):
    """The result of a backtracking search.

    Attributes:
        scale: the last scale tried, 1 for the full step.
        evaluation: what `evaluate` returned at that scale.
        backtracks: how many times the step was shortened.
        accepted: whether `accept` returned True.
    """

    scale: float
    evaluation: T
    backtracks: int
    accepted: bool


def backtrack(
    evaluate: Callable[[float], T],
    accept: Callable[[T], bool],
    *,
    shrink: float = 0.8,
    max_iterations: int = 10,
) -> LineSearch[T]:
    """Try the scales 1, shrink, shrink², ... until one is accepted.

    Args:
        evaluate: maps a scale to the argument of `accept`.
        accept: the condition to be met.
        shrink: factor between two scales, in (0, 1).
        max_iterations: maximum number of scales tried, at least 1.

    Raises:
        ValueError: an option is out of range.
    """
    if not (0 < shrink < 1 and max_iterations >= 1):
        raise ValueError(f"expected 0 < shrink < 1 and max_iterations ≥ 1, got {shrink} and {max_iterations}")
    for backtracks in range(max_iterations):
        scale = shrink**backtracks
        evaluation = evaluate(scale)
        accepted = accept(evaluation)
        if accepted:
            break
    return LineSearch(scale, evaluation, backtracks, accepted)
