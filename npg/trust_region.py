"""The constrained step: maximise gᵀd subject to KL(π_old ‖ π_new) ≤ δ.

`natural_step` trusts the quadratic model of the KL; `trust_region_step` checks the KL itself and shortens
the step until it holds. docs/derivation.md derives every line.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from npg.conjugate_gradient import Solution, Status, conjugate_gradient
from npg.line_search import backtrack
from npg.linear_operator import Damped, LinearOperator
from npg.objective import Evaluation, SurrogateObjective
from npg.policy_step import PolicyStep, Rejection

Solver = Callable[[LinearOperator, Tensor], Solution]

# A second attempt after negative curvature multiplies the damping, or begins here where it was zero.
DAMPING_GROWTH = 10.0
LEAST_RAISED_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class NaturalDirection:
    """The direction x = (F + λI)⁻¹ g.

    Attributes:
        gradient: g, (P,).
        x: (P,).
        curvature: xᵀFx. Damping shapes the direction only: the constraint is about the KL, so the
            length of the step comes from F alone.
        damping: the λ that was used.
        solution: the solver's account, None where g already ruled a step out.
        rejection: why the direction is of no use, None where it is.
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
    """Solve (F + λI) x = g, once more with λ raised if the curvature is not positive.

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
    for attempt in (damping, max(DAMPING_GROWTH * damping, LEAST_RAISED_DAMPING)):
        solution = solver(Damped(fisher, attempt), gradient)
        x = solution.x
        # Measured along x / max|x|, so that no dot product under- or overflows, whatever the scale of g.
        scale = float(x.abs().amax()) or 1.0
        unit = x / scale
        curvature = float(unit @ (fisher @ unit))
        # Below the rounding of λ xᵀx, the curvature says nothing of the KL along x.
        tiny = torch.finfo(x.dtype).eps * attempt * float(unit @ unit)
        full_curvature = curvature * scale * scale  # of x itself; may still leave the range of a float
        if solution.status is Status.NON_FINITE or not math.isfinite(full_curvature):
            rejection = Rejection.NON_FINITE_FISHER
            break
        if solution.status is not Status.NEGATIVE_CURVATURE and curvature > tiny and full_curvature > 0:
            rejection = None
            break
        rejection = Rejection.NEGATIVE_CURVATURE
    return NaturalDirection(gradient, x, full_curvature, attempt, solution, rejection)


def trust_region_length(curvature: float, target_kl: float) -> float:
    """Return sqrt(2δ / xᵀFx), the multiple of x at which the quadratic model of the KL is δ."""
    return math.sqrt(2 * target_kl / curvature)


def natural_step(
    objective: SurrogateObjective,
    fisher: LinearOperator,
    *,
    target_kl: float = 0.01,
    step_size: float | None = None,
    damping: float = 0.1,
    solver: Solver = conjugate_gradient,
) -> PolicyStep:
    """Return the natural gradient step, without a line search (Kakade 2001).

    Args:
        objective: gives g and evaluates the step.
        fisher: F at the objective's parameters.
        target_kl: δ in nats, which the quadratic model of the step's KL equals.
        step_size: a fixed multiple of the direction x, in place of the length that δ gives.
        damping: λ ≥ 0 added to F for the direction.
        solver: of the linear system.

    Returns:
        The step, refused only where its numbers are not finite or the curvature not positive.

    Raises:
        ValueError: target_kl, step_size or damping is out of range.
    """
    _check_positive(target_kl=target_kl, step_size=step_size)
    direction = natural_direction(fisher, objective.gradient(), damping=damping, solver=solver)
    if direction.rejection is not None:
        return _refuse(objective, direction, direction.rejection)
    length = step_size or trust_region_length(direction.curvature, target_kl)
    return _search(objective, direction, length, Rejection.of_numbers, max_iterations=1)


def trust_region_step(
    objective: SurrogateObjective,
    fisher: LinearOperator,
    *,
    target_kl: float = 0.01,
    damping: float = 0.1,
    solver: Solver = conjugate_gradient,
    shrink: float = 0.8,
    max_iterations: int = 10,
) -> PolicyStep:
    """Return a step with KL ≤ δ and a gain > 0, or one that moves nothing and says why.

    Schulman et al. 2015, "Trust region policy optimization", appendix C.

    Args:
        objective: gives g and evaluates every candidate.
        fisher: F at the objective's parameters.
        target_kl: δ in nats.
        damping: λ ≥ 0 added to F for the direction.
        solver: of the linear system.
        shrink: factor between two candidates' lengths, in (0, 1).
        max_iterations: how many candidates the line search tries, at least 1.

    Raises:
        ValueError: target_kl, damping or an option of the search is out of range.
    """
    _check_positive(target_kl=target_kl)
    direction = natural_direction(fisher, objective.gradient(), damping=damping, solver=solver)
    if direction.rejection is not None:
        return _refuse(objective, direction, direction.rejection)
    length = trust_region_length(direction.curvature, target_kl)

    def rejection_of(evaluation: Evaluation) -> Rejection | None:
        if (rejection := Rejection.of_numbers(evaluation)) is not None:
            return rejection
        if evaluation.kl > target_kl:
            return Rejection.KL_ABOVE_TARGET
        return None if evaluation.gain > 0 else Rejection.NO_IMPROVEMENT

    return _search(objective, direction, length, rejection_of, shrink, max_iterations)


def _search(
    objective: SurrogateObjective,
    direction: NaturalDirection,
    length: float,
    rejection_of: Callable[[Evaluation], Rejection | None],
    shrink: float = 0.8,
    max_iterations: int = 10,
) -> PolicyStep:
    """Shorten length · x until `rejection_of` has nothing to say against it."""
    full_step = length * direction.x
    search = backtrack(
        lambda scale: objective.evaluate(scale * full_step),
        lambda evaluation: rejection_of(evaluation) is None,
        shrink=shrink,
        max_iterations=max_iterations,
    )
    rejection = rejection_of(search.evaluation)
    if rejection is not None:
        return _refuse(objective, direction, rejection, search.backtracks)
    return PolicyStep.taken(
        direction.gradient,
        search.scale * full_step,
        search.evaluation,
        backtracks=search.backtracks,
        damping=direction.damping,
        solution=direction.solution,
    )


def _refuse(
    objective: SurrogateObjective,
    direction: NaturalDirection,
    rejection: Rejection,
    backtracks: int = 0,
) -> PolicyStep:
    return PolicyStep.refused(
        objective,
        rejection,
        backtracks=backtracks,
        damping=direction.damping,
        solution=direction.solution,
    )


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive finite number, got {value}")
