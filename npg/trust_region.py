"""The constrained step: maximise gᵀd subject to KL(π_old ‖ π_new) ≤ δ.

`natural_step` relies on the quadratic model of the KL; `trust_region_step` evaluates the KL itself and
shortens the step until the KL is at most δ. docs/derivation.md derives every line.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from npg import host
from npg.conjugate_gradient import Status, conjugate_gradient
from npg.line_search import backtrack
from npg.linear_operator import Damped, LinearOperator
from npg.natural_direction import Solver, UnreadDirection, dampings
from npg.objective import Evaluation, SurrogateObjective
from npg.policy_step import PolicyStep, Rejection
from npg.step_rule import StepRule


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
        objective: computes g and evaluates the step.
        fisher: F at the objective's parameters.
        target_kl: δ in nats; the length is chosen such that the quadratic model of the KL equals δ.
        step_size: step by this fixed multiple of the direction x instead, whatever δ.
        damping: λ ≥ 0, added to F to compute the direction.
        solver: solves the linear system.

    Returns:
        The step. It is rejected only if its numbers are not finite or the curvature is not positive.

    Raises:
        ValueError: target_kl, step_size or damping is out of range.
    """
    rule = StepRule.natural(target_kl, step_size)
    return search_step(objective, fisher, damping, solver, rule)


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
    """Return a step with KL ≤ δ and a gain > 0, or a rejected step, whose displacement is zero.

    Schulman et al. 2015, "Trust region policy optimization", appendix C.

    Args:
        objective: computes g and evaluates every candidate.
        fisher: F at the objective's parameters.
        target_kl: δ in nats.
        damping: λ ≥ 0, added to F to compute the direction.
        solver: solves the linear system.
        shrink: each candidate is shorter than the previous one by this factor, in (0, 1).
        max_iterations: maximum number of candidates that the line search tries, at least 1.

    Raises:
        ValueError: target_kl, damping or an option of the search is out of range.
    """
    rule = StepRule.trust_region(target_kl, shrink, max_iterations)
    return search_step(objective, fisher, damping, solver, rule)


def search_step(
    objective: SurrogateObjective,
    fisher: LinearOperator,
    damping: float,
    solver: Solver,
    rule: StepRule,
) -> PolicyStep:
    """Backtrack along the natural direction until the rule rejects no more."""
    gradient = objective.gradient()
    if host.peek((gradient.abs().amax() > 0) & gradient.isfinite().all()) is False:
        return PolicyStep.without_candidate(objective)
    for attempt in dampings(damping):
        solution = solver(Damped(fisher, attempt), gradient)
        direction = UnreadDirection.of(gradient, solution.x, fisher, attempt)
        full_step = rule.length_of(direction.curvature) * solution.x
        line = _Line(objective, direction, solution.status, full_step, rule)
        search = backtrack(
            line.candidate,
            lambda candidate: candidate.useless is not None or candidate.rejection is None,
            shrink=rule.shrink,
            max_iterations=rule.max_iterations,
        )
        candidate = search.evaluation
        if candidate.useless is not Rejection.NEGATIVE_CURVATURE:
            break
    if candidate.useless in (Rejection.NON_FINITE_GRADIENT, Rejection.NO_IMPROVEMENT):
        return PolicyStep.without_candidate(objective)
    return PolicyStep.of(
        search.scale * full_step,
        candidate.rejection,
        candidate.evaluation,
        backtracks=search.backtracks,
        damping=attempt,
        solution=solution,
    )


@dataclass(frozen=True)
class _Candidate:
    """The numbers of a candidate step on the host.

    Attributes:
        evaluation: the objective at the candidate.
        useless: why its direction, and so every candidate along it, is unusable; or None.
        rejection: why this candidate is rejected; or None.
    """

    evaluation: Evaluation
    useless: Rejection | None
    rejection: Rejection | None


@dataclass(frozen=True, eq=False)
class _Line:
    """The candidates along a direction.

    The first candidate is evaluated before the host knows whether the direction is usable, so that both are
    read together: there is one host read per solve and one per candidate.
    """

    objective: SurrogateObjective
    direction: UnreadDirection
    status: Status
    full_step: Tensor
    rule: StepRule

    def candidate(self, scale: float) -> _Candidate:
        """Evaluate the full step times a scale."""
        measured = self.objective.measure(scale * self.full_step)
        numbers = host.read(**measured, **self.direction.numbers())
        evaluation = Evaluation.of(numbers)
        useless = self.direction.rejection_of(numbers, self.status)
        return _Candidate(evaluation, useless, useless or self.rule.rejection_of(evaluation))
