"""Conjugate gradient for symmetric positive definite systems."""

import math
from dataclasses import dataclass
from enum import StrEnum

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
    norm_b = _norm(b)

    rounding = torch.finfo(b.dtype).eps
    direction: Tensor | None = None  # None: begin along the (preconditioned) residual
    weight = largest_curvature = 0.0
    iterations, verified = 0, True

    def stop(status: Status) -> Solution:
        solution = x * scale
        if not bool(torch.isfinite(solution).all()):
            return Solution(torch.zeros_like(x), math.nan, iterations, Status.NON_FINITE)
        return Solution(solution, size, iterations, status)

    while True:
        size = _norm(residual) / norm_b
        if size <= tolerance and not verified:
            residual, direction, verified = b - operator @ x, None, True
            continue
        if size <= tolerance:
            return stop(Status.CONVERGED)
        if iterations == max_iterations:
            return stop(Status.MAX_ITERATIONS)

        z = residual if preconditioner is None else preconditioner @ residual
        previous, weight = weight, _dot(residual, z)
        direction = z if direction is None else z + (weight / previous) * direction
        product = operator @ direction
        curvature = _dot(direction, product)
        length = _dot(direction, direction)
        if not (math.isfinite(curvature) and math.isfinite(weight) and 0 < length < math.inf):
            return stop(Status.NON_FINITE)
        relative = curvature / length
        largest_curvature = max(largest_curvature, relative)
        if curvature <= 0 or weight <= 0 or relative <= rounding * largest_curvature:
            return stop(Status.NEGATIVE_CURVATURE)

        step = weight / curvature
        x = x + step * direction
        residual = residual - step * product
        iterations, verified = iterations + 1, False


def _check(b: Tensor, x0: Tensor | None, max_iterations: int, tolerance: float) -> None:
    if b.ndim != 1 or (x0 is not None and x0.shape != b.shape):
        shapes = f"{tuple(b.shape)} and {None if x0 is None else tuple(x0.shape)}"
        raise ValueError(f"b and x0 must be vectors of one length, got shapes {shapes}")
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"expected max_iterations ≥ 1 and tolerance ≥ 0, got {max_iterations} and {tolerance}"
        )


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a @ b)


def _norm(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a))
