"""The direction of the constrained step: x = (F + λI)⁻¹ g."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from npg import host
from npg.conjugate_gradient import Solution, Status, conjugate_gradient
from npg.linear_operator import Damped, LinearOperator
from npg.policy_step import Rejection

Solver = Callable[[LinearOperator, Tensor], Solution]

# After negative curvature, a second attempt uses DAMPING_GROWTH times the damping, but at least
# LEAST_RAISED_DAMPING.
DAMPING_GROWTH = 10.0
LEAST_RAISED_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class NaturalDirection:
    """The direction x = (F + λI)⁻¹ g.

    Attributes:
        gradient: g, (P,).
        x: (P,).
        curvature: xᵀFx, without λ. Damping affects only the direction: the constraint is on the KL, so the
            length of the step follows from F alone.
        damping: the λ that was used.
        solution: the solver's result; None if g is zero or not finite.
        rejection: why the direction is unusable, or None if it is usable.
    """

    gradient: Tensor
    x: Tensor
    curvature: float
    damping: float
    solution: Solution | None
    rejection: Rejection | None


def natural_direction(
    fisher: LinearOperator,
    gradient: Tensor,
    *,
    damping: float = 0.1,
    solver: Solver = conjugate_gradient,
) -> NaturalDirection:
    """Solve (F + λI) x = g; if the curvature is not positive, solve again with a larger λ.

    Args:
        fisher: F.
        gradient: g, (P,).
        damping: λ ≥ 0.
        solver: `conjugate_gradient`, or a partial of it with other options.

    Raises:
        ValueError: the damping is negative or not finite.
    """
    rejection = Rejection.of_gradient(gradient)
    if rejection is not None:
        return NaturalDirection(gradient, gradient, 0.0, damping, None, rejection)
    for attempt in dampings(damping):
        solution = solver(Damped(fisher, attempt), gradient)
        direction = UnreadDirection.of(gradient, solution.x, fisher, attempt)
        numbers = host.read(**direction.numbers())
        rejection = direction.rejection_of(numbers, solution.status)
        if rejection is not Rejection.NEGATIVE_CURVATURE:
            break
    return NaturalDirection(gradient, solution.x, numbers["curvature"], attempt, solution, rejection)


def dampings(damping: float) -> tuple[float, float]:
    """Return the λ of the first attempt, and that of a second attempt after negative curvature."""
    return damping, max(DAMPING_GROWTH * damping, LEAST_RAISED_DAMPING)


@dataclass(frozen=True, eq=False)
class UnreadDirection:
    """A direction whose curvature is still on the device.

    Attributes:
        gradient: g, (P,).
        x: an approximate solution of (F + λI) x = g, (P,).
        curvature: xᵀFx, 0-d.
        positive: whether the curvature is positive beyond rounding, 0-d.
    """

    gradient: Tensor
    x: Tensor
    curvature: Tensor
    positive: Tensor

    @classmethod
    def of(
        cls, gradient: Tensor, x: Tensor, fisher: LinearOperator, damping: float | Tensor
    ) -> "UnreadDirection":
        """Measure the curvature of F along a solution x."""
        # Measure along x / max|x|, so that no dot product underflows or overflows, whatever the scale of g.
        scale = x.abs().amax()
        scale = torch.where(scale > 0, scale, 1)
        unit = x / scale
        dtype = host.scalar_dtype(x.device)
        curvature, scale = (unit @ (fisher @ unit)).to(dtype), scale.to(dtype)
        # A curvature below the rounding of λ xᵀx says nothing about the KL along x.
        tiny = torch.finfo(x.dtype).eps * damping * (unit @ unit).to(dtype)
        full_curvature = curvature * scale * scale  # of x itself; this may still overflow or underflow
        return cls(gradient, x, full_curvature, (curvature > tiny) & (full_curvature > 0))

    def numbers(self) -> dict[str, Tensor]:
        """Return what `rejection_of` needs from the device."""
        return {
            "curvature": self.curvature,
            "positive": self.positive,
            "gradient_size": self.gradient.abs().amax(),
        }

    @staticmethod
    def rejection_of(numbers: Mapping[str, float], status: Status) -> Rejection | None:
        """Return why a direction is unusable, or None if it is usable.

        Args:
            numbers: those of `numbers`, read from the device.
            status: how its solution ended.
        """
        if (rejection := Rejection.of_gradient_size(numbers["gradient_size"])) is not None:
            return rejection
        if status is Status.NON_FINITE or not math.isfinite(numbers["curvature"]):
            return Rejection.NON_FINITE_FISHER
        if status is Status.NEGATIVE_CURVATURE or not numbers["positive"]:
            return Rejection.NEGATIVE_CURVATURE
        return None
