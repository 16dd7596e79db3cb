"""The length of a step along the natural direction, and when a candidate is accepted."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from npg.objective import Evaluation
from npg.policy_step import Rejection


@dataclass(frozen=True)
class StepRule:
    """A rule for the steps along a direction.

    Attributes:
        limited: whether a candidate needs KL ≤ δ and a gain > 0, rather than only finite numbers.
        target_kl: δ in nats.
        step_size: a fixed multiple of the direction; None for the length at which the predicted KL is δ.
        shrink: each candidate is shorter than the previous one by this factor, in (0, 1).
        max_iterations: maximum number of candidates, at least 1.

    Raises:
        ValueError: target_kl or step_size is not a positive finite number.
    """

    limited: bool
    target_kl: float
    step_size: float | None = None
    shrink: float = 0.8
    max_iterations: int = 1

    def __post_init__(self) -> None:
        for name in ("target_kl", "step_size"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive finite number, got {value}")

    @classmethod
    def natural(cls, target_kl: float, step_size: float | None) -> Self:
        """Return the rule of `natural_step`."""
        return cls(False, target_kl, step_size)

    @classmethod
    def trust_region(cls, target_kl: float, shrink: float, max_iterations: int) -> Self:
        """Return the rule of `trust_region_step`."""
        return cls(True, target_kl, shrink=shrink, max_iterations=max_iterations)

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that `step_length` needs."""
        return {"target_kl": self.target_kl} if self.step_size is None else {"step_size": self.step_size}

    def length_of(self, curvature: Tensor) -> Tensor | float:
        """Return the multiple of the direction x, given xᵀFx, 0-d."""
        return step_length(curvature, **self.numbers)

    def rejection_of(self, evaluation: Evaluation) -> Rejection | None:
        """Return why a candidate is rejected, or None if it is accepted."""
        rejection = Rejection.of_numbers(evaluation)
        if rejection is not None or not self.limited:
            return rejection
        if evaluation.kl > self.target_kl:
            return Rejection.KL_ABOVE_TARGET
        return None if evaluation.gain > 0 else Rejection.NO_IMPROVEMENT


def step_length(
    curvature: Tensor, target_kl: float | Tensor = 0.0, step_size: float | Tensor | None = None
) -> Tensor | float:
    """Return sqrt(2δ / xᵀFx), at which the quadratic model of the KL is δ, or the fixed step size."""
    return torch.sqrt(2 * target_kl / curvature) if step_size is None else step_size
