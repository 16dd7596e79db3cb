"""The constrained step: maximise gᵀd subject to KL ≤ δ and limits on the expectations of other advantages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from npg import host
from npg.conjugate_gradient import conjugate_gradient
from npg.constrained_direction import constrained_direction
from npg.constrained_objective import ConstrainedObjective
from npg.constrained_problem import Case
from npg.line_search import backtrack
from npg.linear_operator import LinearOperator
from npg.natural_direction import Solver
from npg.objective import Evaluation
from npg.policy_step import PolicyStep, Rejection
from npg.step_rule import StepRule


@dataclass(frozen=True, eq=False)
class ConstrainedStep(PolicyStep):
    """A step with constraints.

    Attributes:
        case: what determined the step.
        constraint_changes: the changes of the constrained quantities, m numbers, all 0 if it is rejected.
    """

    case: Case = Case.FREE
    constraint_changes: tuple[float, ...] = ()

    def scalars(self) -> dict[str, float]:
        """Return {name: number} for the log."""
        changes = {f"constraint_change_{i}": change for i, change in enumerate(self.constraint_changes)}
        return super().scalars() | {"case": float(self.case)} | changes


@dataclass(frozen=True)
class _Candidate:
    evaluation: Evaluation
    changes: tuple[float, ...]


def constrained_step(
    objective: ConstrainedObjective,
    fisher: LinearOperator,
    excesses: Sequence[float],
    *,
    target_kl: float = 0.01,
    damping: float = 0.1,
    solver: Solver = conjugate_gradient,
    shrink: float = 0.8,
    max_iterations: int = 10,
    project: bool = False,
) -> ConstrainedStep:
    """Return a step with KL ≤ δ that respects all constraints, or a rejected step.

    Achiam et al. 2017, "Constrained policy optimization". A step is accepted if no satisfied constraint
    becomes violated and no violated one grows, on the batch. It must also raise the objective, unless a
    constraint was violated; if no step could satisfy all constraints, it must lower a violated one.

    Args:
        objective: computes the gradients and evaluates every candidate.
        fisher: F at the objective's parameters.
        excesses: by how much each constrained quantity exceeds its limit now; negative if it is below.
        target_kl: δ in nats.
        damping: λ ≥ 0, added to F to compute directions.
        solver: solves the linear systems.
        shrink: each candidate is shorter than the previous one by this factor, in (0, 1).
        max_iterations: maximum number of candidates that the line search tries, at least 1.
        project: project the step without constraints onto them; see `constrained_direction`.

    Raises:
        ValueError: an argument is out of range.
    """
    rule = StepRule.trust_region(target_kl, shrink, max_iterations)
    direction = constrained_direction(
        fisher,
        objective.gradient(),
        objective.constraint_gradients(),
        excesses,
        target_kl=target_kl,
        damping=damping,
        solver=solver,
        project=project,
    )
    if direction.rejection is not None:
        step = ConstrainedStep.without_candidate(objective, direction.rejection)
        return replace(step, case=direction.case, constraint_changes=(0.0,) * len(excesses))

    def evaluate(scale: float) -> _Candidate:
        numbers = host.read(**objective.measure(scale * direction.displacement))
        changes = tuple(numbers[f"constraint {i}"] for i in range(len(excesses)))
        return _Candidate(Evaluation.of(numbers), changes)

    def rejection_of(candidate: _Candidate) -> Rejection | None:
        return constrained_rejection(candidate.evaluation, candidate.changes, excesses, direction.case, rule)

    search = backtrack(
        evaluate,
        lambda candidate: rejection_of(candidate) is None,
        shrink=shrink,
        max_iterations=max_iterations,
    )
    candidate = search.evaluation
    rejection = rejection_of(candidate)
    step = ConstrainedStep.of(
        search.scale * direction.displacement,
        rejection,
        candidate.evaluation,
        backtracks=search.backtracks,
        damping=direction.damping,
        solution=direction.solution,
    )
    changes = candidate.changes if rejection is None else (0.0,) * len(excesses)
    return replace(step, case=direction.case, constraint_changes=changes)


def constrained_rejection(
    evaluation: Evaluation,
    changes: Sequence[float],
    excesses: Sequence[float],
    case: Case,
    rule: StepRule,
) -> Rejection | None:
    """Return why a candidate is rejected, or None if it is accepted.

    Args:
        evaluation: objective and KL at the candidate.
        changes: the changes of the constrained quantities.
        excesses: by how much each exceeds its limit before the step.
        case: what determined the step.
        rule: its δ.
    """
    rejection = Rejection.of_numbers(evaluation)
    if rejection is not None:
        return rejection
    if evaluation.kl > rule.target_kl:
        return Rejection.KL_ABOVE_TARGET
    # NaN fails this comparison, too.
    if not all(change <= max(-c, 0.0) for change, c in zip(changes, excesses, strict=True)):
        return Rejection.CONSTRAINT_ABOVE_LIMIT
    if case >= Case.LIMITED and max(excesses, default=-1.0) <= 0:
        return None if evaluation.gain > 0 else Rejection.NO_IMPROVEMENT
    lowered = any(change < 0 for change, c in zip(changes, excesses, strict=True) if c > 0)
    return None if lowered else Rejection.NO_IMPROVEMENT
