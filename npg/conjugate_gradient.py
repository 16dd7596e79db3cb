"""Conjugate gradient for symmetric positive definite systems."""

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import torch
from torch import Tensor

from npg.linear_operator import LinearOperator


class Status(StrEnum):
    """Why the solver stopped."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    NEGATIVE_CURVATURE = "negative_curvature"
    NON_FINITE = "non_finite"


@dataclass(frozen=True, eq=False)
class Solution:
    """What conjugate gradient found.

    Attributes:
        x: (P,), always finite: the last iterate that was, or zero.
        residual: ‖b − A x‖ / ‖b‖, without unit.
        iterations: products with A that moved x.
        status: why it stopped.
    """

    x: Tensor
    residual: float
    iterations: int
    status: Status


def conjugate_gradient(
    operator: LinearOperator | Tensor,
    b: Tensor,
    *,
    max_iterations: int = 10,
    tolerance: float = 1e-8,
    preconditioner: LinearOperator | Tensor | None = None,
    x0: Tensor | None = None,
) -> Solution:
    """Solve A x = b (Hestenes & Stiefel 1952; preconditioned as in Shewchuk 1994, B.3).

    Everything is relative, so that scaling b scales x and changes nothing else: no ε is added to a
    denominator, and a breakdown is reported instead. No argument is changed and no random number
    drawn.

    Args:
        operator: A, an operator or a dense matrix; only `operator @ vector` is used.
        b: (P,).
        max_iterations: bound on the products with A that move x.
        tolerance: stop at ‖b − A x‖ ≤ tolerance · ‖b‖. Convergence is never claimed on the
            recurrence's word: the residual is then computed afresh.
        preconditioner: an approximation of A⁻¹, symmetric positive definite.
        x0: a warm start (P,); zero by default.

    Returns:
        The solution. Its status is NEGATIVE_CURVATURE when a direction p came with pᵀAp ≤ 0, or
        zero up to rounding beside the largest curvature met; `x` is then the iterate before it.

    Raises:
        ValueError: b is not a vector, or an option is out of range.
    """
    _check(b, x0, max_iterations, tolerance)
    # Solved for b / max|b|, so that no dot product under- or overflows, whatever the scale of b.
    scale = float(b.abs().amax()) if b.numel() else 0.0
    if scale == 0:
        return Solution(torch.zeros_like(b), 0.0, 0, Status.CONVERGED)
    if not math.isfinite(scale):
        return Solution(torch.zeros_like(b), math.nan, 0, Status.NON_FINITE)
    b = b / scale
    x = torch.zeros_like(b) if x0 is None else x0 / scale
    residual = b if x0 is None else b - operator @ x
    norm_b = torch.linalg.vector_norm(b)
    iterations = 0
    while True:
        # Here the residual is the true one, not the recurrence's.
        state = _State.at(x, residual)
        size = float(torch.linalg.vector_norm(residual) / norm_b)
        outcome = _Outcome.SMALL if size <= tolerance else _Outcome.RUNNING
        if outcome is _Outcome.RUNNING:
            for _ in range(max_iterations - iterations):
                state = state.next(operator, preconditioner, tolerance * norm_b)
                if _may_look(b) and state.outcome != _Outcome.RUNNING:
                    break
            outcome = _Outcome(int(state.outcome))
            iterations += int(state.iterations)
            x, size = state.x, float(torch.linalg.vector_norm(state.residual) / norm_b)
            if outcome is _Outcome.SMALL:
                residual = b - operator @ x
                continue
        solution = x * scale
        if not bool(torch.isfinite(solution).all()):
            return Solution(torch.zeros_like(x), math.nan, iterations, Status.NON_FINITE)
        return Solution(solution, size, iterations, outcome.status)


class _Outcome(IntEnum):
    """What an iteration came to: a number, so that it can stay on the device."""

    RUNNING = 0
    SMALL = 1
    NEGATIVE_CURVATURE = 2
    NON_FINITE = 3

    @property
    def status(self) -> Status:
        """What it means where the iterations end with it."""
        return (Status.MAX_ITERATIONS, Status.CONVERGED, Status.NEGATIVE_CURVATURE, Status.NON_FINITE)[self]


@dataclass(frozen=True, eq=False)
class _State:
    """All that one iteration hands to the next: tensors, which nothing on the host waits for.

    Once the outcome is no longer RUNNING, further iterations change nothing.
    """

    x: Tensor
    residual: Tensor
    direction: Tensor | None  # None: begin along the (preconditioned) residual
    weight: Tensor
    largest_curvature: Tensor
    iterations: Tensor
    outcome: Tensor

    @classmethod
    def at(cls, x: Tensor, residual: Tensor) -> "_State":
        """Return the state before the first iteration."""
        zero, count = x.new_zeros(()), torch.zeros((), dtype=torch.int64, device=x.device)
        return cls(x, residual, None, zero, zero, count, count)

    def next(
        self, operator: LinearOperator | Tensor, preconditioner: LinearOperator | Tensor | None, goal: Tensor
    ) -> "_State":
        """Return the state after one more product with A; it is SMALL once ‖residual‖ ≤ goal."""
        z = self.residual if preconditioner is None else preconditioner @ self.residual
        weight = self.residual @ z
        direction = z if self.direction is None else z + (weight / self.weight) * self.direction
        product = operator @ direction
        curvature, length = direction @ product, direction @ direction
        relative = curvature / length
        largest_curvature = torch.maximum(self.largest_curvature, relative)
        finite = torch.isfinite(curvature + weight + length) & (length > 0)
        rounding = torch.finfo(weight.dtype).eps
        positive = (curvature > 0) & (weight > 0) & (relative > rounding * largest_curvature)

        running = self.outcome == _Outcome.RUNNING
        moves = running & finite & positive
        step = weight / curvature
        # Chosen rather than multiplied by zero: a direction that is not finite would leave NaN.
        x = torch.where(moves, self.x + step * direction, self.x)
        residual = torch.where(moves, self.residual - step * product, self.residual)
        outcome = (torch.linalg.vector_norm(residual) <= goal) * _Outcome.SMALL.value
        outcome = torch.where(positive, outcome, _Outcome.NEGATIVE_CURVATURE.value)
        outcome = torch.where(finite, outcome, _Outcome.NON_FINITE.value)
        return _State(
            x,
            residual,
            direction,
            weight,
            largest_curvature,
            self.iterations + moves,
            torch.where(running, outcome, self.outcome),
        )


def _may_look(tensor: Tensor) -> bool:
    """Whether the host may look at every iteration's outcome: elsewhere it would wait for the device."""
    return tensor.device.type == "cpu"


def _check(b: Tensor, x0: Tensor | None, max_iterations: int, tolerance: float) -> None:
    if b.ndim != 1 or (x0 is not None and x0.shape != b.shape):
        shapes = f"{tuple(b.shape)} and {None if x0 is None else tuple(x0.shape)}"
        raise ValueError(f"b and x0 must be vectors of one length, got shapes {shapes}")
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"expected max_iterations ≥ 1 and tolerance ≥ 0, got {max_iterations} and {tolerance}"
        )
