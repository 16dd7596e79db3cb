"""Conjugate gradient for symmetric positive definite systems."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from npg import host
from npg.cg_attempt import Outcome, System, UnreadSolution
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


STATUS_OF = {
    Outcome.RUNNING: Status.MAX_ITERATIONS,
    Outcome.SMALL: Status.CONVERGED,
    Outcome.NEGATIVE_CURVATURE: Status.NEGATIVE_CURVATURE,
    Outcome.NON_FINITE: Status.NON_FINITE,
}


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
    system = System.of(operator, b, preconditioner, tolerance)
    if host.peek((system.scale > 0) & system.scale.isfinite()) is False:
        return _without_direction(b, float(system.scale))
    x = torch.zeros_like(b) if x0 is None else x0 / system.divisor
    residual = system.unit if x0 is None else system.unit - operator @ x
    iterations = 0
    while True:
        attempt = system.attempt(x, residual, max_iterations - iterations)
        numbers = host.read(**attempt.numbers)
        iterations += int(numbers["iterations"])
        solution = read_solution(attempt.x, numbers, tolerance, iterations, max_iterations)
        if solution is not None:
            return solution
        x, residual = attempt.restart


def solve_unread(
    operator: LinearOperator | Tensor, b: Tensor, *, max_iterations: int, tolerance: float
) -> UnreadSolution:
    """Make one attempt, from zero, to solve A x = b without a host read; see `conjugate_gradient`."""
    _check(b, None, max_iterations, tolerance)
    system = System.of(operator, b, None, tolerance)
    return system.attempt(torch.zeros_like(b), system.unit, max_iterations)


def read_solution(
    x: Tensor, numbers: Mapping[str, float], tolerance: float, iterations: int, max_iterations: int
) -> Solution | None:
    """Return the solution of an attempt that has been read; None if it needs another one.

    The residual of the recurrence may be small while b − A x is not.

    Args:
        x: of the attempt.
        numbers: of the attempt.
        tolerance: see `conjugate_gradient`.
        iterations: the number of iterations of all attempts.
        max_iterations: see `conjugate_gradient`.
    """
    if not (numbers["scale"] > 0 and math.isfinite(numbers["scale"])):
        return _without_direction(x, numbers["scale"])
    outcome = Outcome(int(numbers["outcome"]))
    if outcome is Outcome.SMALL and numbers["iterations"] and numbers["residual"] > tolerance:
        if iterations < max_iterations:
            return None
        outcome = Outcome.RUNNING
    if not numbers["finite"]:
        return Solution(torch.zeros_like(x), math.nan, iterations, Status.NON_FINITE)
    return Solution(x, numbers["residual"], iterations, STATUS_OF[outcome])


def _without_direction(b: Tensor, scale: float) -> Solution:
    """Return the solution for a vector b that is zero or not finite."""
    if scale == 0:
        return Solution(torch.zeros_like(b), 0.0, 0, Status.CONVERGED)
    return Solution(torch.zeros_like(b), math.nan, 0, Status.NON_FINITE)


def _check(b: Tensor, x0: Tensor | None, max_iterations: int, tolerance: float) -> None:
    if b.ndim != 1 or (x0 is not None and x0.shape != b.shape):
        shapes = f"{tuple(b.shape)} and {None if x0 is None else tuple(x0.shape)}"
        raise ValueError(f"b and x0 must be vectors of the same length, got shapes {shapes}")
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"expected max_iterations ≥ 1 and tolerance ≥ 0, got {max_iterations} and {tolerance}"
        )
