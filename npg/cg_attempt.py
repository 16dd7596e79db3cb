"""One attempt of conjugate gradient, which stays on the device."""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from npg import host
from npg.linear_operator import LinearOperator


class Outcome(IntEnum):
    """The result of an iteration, as a number that can stay on the device."""

    RUNNING = 0
    SMALL = 1
    NEGATIVE_CURVATURE = 2
    NON_FINITE = 3


@dataclass(frozen=True, eq=False)
class UnreadSolution:
    """A solution whose numbers are still on the device.

    Attributes:
        x: (P,), to be used only if `read_solution` returns a solution.
        numbers: what `read_solution` needs, by name.
        restart: x and b − A x computed anew, for the scaled b: the start of another attempt.
    """

    x: Tensor
    numbers: dict[str, Tensor]
    restart: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class System:
    """A x = b for b / max|b|, so that no dot product underflows or overflows, whatever the scale of b."""

    operator: LinearOperator | Tensor
    preconditioner: LinearOperator | Tensor | None
    scale: Tensor
    divisor: Tensor
    unit: Tensor
    norm_b: Tensor
    tolerance: float

    @classmethod
    def of(
        cls,
        operator: LinearOperator | Tensor,
        b: Tensor,
        preconditioner: LinearOperator | Tensor | None,
        tolerance: float,
    ) -> "System":
        """Return the system for an unscaled b."""
        scale = b.abs().amax() if b.numel() else b.new_zeros(())
        divisor = torch.where(scale > 0, scale, 1)
        unit = b / divisor
        norm_b = torch.linalg.vector_norm(unit)
        return cls(operator, preconditioner, scale, divisor, unit, norm_b, tolerance)

    def attempt(self, x: Tensor, residual: Tensor, iterations: int) -> UnreadSolution:
        """Iterate from x, whose residual was computed as b − A x, not by the recurrence."""
        state = _State.at(x, residual, self.norm_b, self.tolerance)
        goal = self.tolerance * self.norm_b
        for _ in range(iterations):
            if host.peek(state.outcome != Outcome.RUNNING):
                break
            state = state.next(self.operator, self.preconditioner, goal)
        unverified = (state.outcome == Outcome.SMALL) & (state.iterations > 0)
        known = host.peek(unverified) is False
        true = state.residual if known else self.unit - self.operator @ state.x
        solution = state.x * self.divisor
        numbers = {
            "scale": self.scale,
            "outcome": state.outcome,
            "iterations": state.iterations,
            "residual": torch.linalg.vector_norm(torch.where(unverified, true, state.residual)) / self.norm_b,
            "finite": solution.isfinite().all(),
        }
        return UnreadSolution(solution, numbers, (state.x, true))


@dataclass(frozen=True, eq=False)
class _State:
    """The state between two iterations, as tensors that the host does not read.

    Once the outcome is no longer RUNNING, further iterations change nothing.
    """

    x: Tensor
    residual: Tensor
    direction: Tensor | None  # None: start along the (preconditioned) residual
    weight: Tensor
    largest_curvature: Tensor
    iterations: Tensor
    outcome: Tensor

    @classmethod
    def at(cls, x: Tensor, residual: Tensor, norm_b: Tensor, tolerance: float) -> "_State":
        """Return the state before the first iteration; its outcome is SMALL if x is within the tolerance."""
        zero, count = x.new_zeros(()), torch.zeros((), dtype=torch.int64, device=x.device)
        small = torch.linalg.vector_norm(residual) / norm_b <= tolerance
        return cls(x, residual, None, zero, zero, count, small * Outcome.SMALL.value)

    def next(
        self, operator: LinearOperator | Tensor, preconditioner: LinearOperator | Tensor | None, goal: Tensor
    ) -> "_State":
        """Return the state after one more product with A; its outcome is SMALL if ‖residual‖ ≤ goal."""
        z = self.residual if preconditioner is None else preconditioner @ self.residual
        weight = self.residual @ z
        direction = z if self.direction is None else z + (weight / self.weight) * self.direction
        product = operator @ direction
        curvature, length = direction @ product, direction @ direction
        relative = curvature / length
        largest_curvature = torch.maximum(self.largest_curvature, relative)
        finite = ((curvature + weight + length).abs() < math.inf) & (length > 0)
        rounding = torch.finfo(weight.dtype).eps
        positive = (weight > 0) & (relative > rounding * largest_curvature)

        running = self.outcome == Outcome.RUNNING.value
        moves = running & finite & positive
        step = weight / curvature
        # torch.where, since a non-finite direction times zero would be NaN.
        x = torch.where(moves, self.x + step * direction, self.x)
        residual = torch.where(moves, self.residual - step * product, self.residual)
        outcome = (torch.linalg.vector_norm(residual) <= goal) * Outcome.SMALL.value
        outcome = torch.where(positive, outcome, Outcome.NEGATIVE_CURVATURE.value)
        outcome = torch.where(finite, outcome, Outcome.NON_FINITE.value)
        return _State(
            x,
            residual,
            direction,
            weight,
            largest_curvature,
            self.iterations + moves,
            torch.where(running, outcome, self.outcome),
        )
