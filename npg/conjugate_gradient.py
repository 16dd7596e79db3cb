"""Conjugate gradient for symmetric positive definite systems."""

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import torch
from torch import Tensor

from npg import host
from npg.linear_operator import LinearOperator


class Status(StrEnum):
    """Why the solver stopped; `advice` says what to do about it."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    NEGATIVE_CURVATURE = "negative_curvature"
    NON_FINITE = "non_finite"

    @property
    def advice(self) -> str:
        """What to do if the solver stopped for this reason."""
        return {
            Status.CONVERGED: "nothing: the residual is below the tolerance",
            Status.MAX_ITERATIONS: "raise max_iterations, the tolerance or the damping",
            Status.NEGATIVE_CURVATURE: "raise the damping",
            Status.NON_FINITE: "look for NaN or infinity in observations, parameters and the right-hand side",
        }[self]


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of conjugate gradient.

    Attributes:
        x: (P,), always finite: the last finite iterate, or zero.
        residual: ‖b − A x‖ / ‖b‖, dimensionless.
        iterations: the number of products with A that changed x.
        status: why the solver stopped.
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

    The tolerance is relative: scaling b scales x and changes nothing else. No ε is added to a denominator;
    the status reports a breakdown instead. Arguments are not modified, and no random numbers are drawn.

    Args:
        operator: A, an operator or a dense matrix; only `operator @ vector` is used.
        b: (P,).
        max_iterations: maximum number of products with A that change x.
        tolerance: stop when ‖b − A x‖ ≤ tolerance · ‖b‖. Convergence is reported only if this holds for
            b − A x computed anew, not just for the residual of the recurrence.
        preconditioner: an approximation of A⁻¹, symmetric positive definite.
        x0: a warm start (P,); zero by default.

    Returns:
        The solution. Its status is NEGATIVE_CURVATURE if a search direction p had pᵀAp ≤ 0, or a positive
        pᵀAp below the rounding of the largest curvature so far; `x` is then the last iterate before that.

    Raises:
        ValueError: b is not a vector, or an option is out of range.
    """
    _check(b, x0, max_iterations, tolerance)
    # Solve for b / max|b|, so that no dot product underflows or overflows, whatever the scale of b.
    scale = b.abs().amax() if b.numel() else b.new_zeros(())
    if host.peek((scale > 0) & scale.isfinite()) is False:
        return _without_direction(b, float(scale))
    divisor = torch.where(scale > 0, scale, 1)
    unit = b / divisor
    x = torch.zeros_like(b) if x0 is None else x0 / divisor
    residual = unit if x0 is None else unit - operator @ x
    norm_b = torch.linalg.vector_norm(unit)
    iterations = 0
    while True:
        # Here `residual` was computed as b − A x, not by the recurrence.
        state = _State.at(x, residual, norm_b, tolerance)
        for _ in range(max_iterations - iterations):
            if host.peek(state.outcome != _Outcome.RUNNING):
                break
            state = state.next(operator, preconditioner, tolerance * norm_b)
        unverified = (state.outcome == _Outcome.SMALL) & (state.iterations > 0)
        true = state.residual if host.peek(unverified) is False else unit - operator @ state.x
        solution = state.x * divisor
        numbers = host.read(
            scale=scale,
            outcome=state.outcome,
            iterations=state.iterations,
            residual=torch.linalg.vector_norm(torch.where(unverified, true, state.residual)) / norm_b,
            finite=solution.isfinite().all(),
        )
        if not (numbers["scale"] > 0 and math.isfinite(numbers["scale"])):
            return _without_direction(b, numbers["scale"])
        outcome, made = _Outcome(int(numbers["outcome"])), int(numbers["iterations"])
        iterations += made
        if outcome is _Outcome.SMALL and made and numbers["residual"] > tolerance:
            if iterations < max_iterations:
                x, residual = state.x, true
                continue
            outcome = _Outcome.RUNNING
        if not numbers["finite"]:
            return Solution(torch.zeros_like(x), math.nan, iterations, Status.NON_FINITE)
        return Solution(solution, numbers["residual"], iterations, outcome.status)


def _without_direction(b: Tensor, scale: float) -> Solution:
    """Return the solution for a vector b that is zero or not finite."""
    if scale == 0:
        return Solution(torch.zeros_like(b), 0.0, 0, Status.CONVERGED)
    return Solution(torch.zeros_like(b), math.nan, 0, Status.NON_FINITE)


class _Outcome(IntEnum):
    """The result of an iteration, as a number that can stay on the device."""

    RUNNING = 0
    SMALL = 1
    NEGATIVE_CURVATURE = 2
    NON_FINITE = 3

    @property
    def status(self) -> Status:
        """The solver's status if it stops with this outcome."""
        return (Status.MAX_ITERATIONS, Status.CONVERGED, Status.NEGATIVE_CURVATURE, Status.NON_FINITE)[self]


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
        return cls(x, residual, None, zero, zero, count, small * _Outcome.SMALL.value)

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
        finite = torch.isfinite(curvature + weight + length) & (length > 0)
        rounding = torch.finfo(weight.dtype).eps
        positive = (curvature > 0) & (weight > 0) & (relative > rounding * largest_curvature)

        running = self.outcome == _Outcome.RUNNING
        moves = running & finite & positive
        step = weight / curvature
        # torch.where, since a non-finite direction times zero would be NaN.
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


def _check(b: Tensor, x0: Tensor | None, max_iterations: int, tolerance: float) -> None:
    if b.ndim != 1 or (x0 is not None and x0.shape != b.shape):
        shapes = f"{tuple(b.shape)} and {None if x0 is None else tuple(x0.shape)}"
        raise ValueError(f"b and x0 must be vectors of the same length, got shapes {shapes}")
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"expected max_iterations ≥ 1 and tolerance ≥ 0, got {max_iterations} and {tolerance}"
        )
