"""The direction of a step with linear constraints: a small convex problem in the span of natural gradients.

    maximise gᵀd   subject to   cᵢ + bᵢᵀd ≤ 0 for all i,   ½ dᵀFd ≤ δ

docs/constraints.md derives it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from npg import host
from npg.conjugate_gradient import Solution, conjugate_gradient
from npg.constrained_problem import Case, ConstrainedProblem, ScaledRows
from npg.linear_operator import Damped, LinearOperator
from npg.natural_direction import Solver, natural_direction
from npg.policy_step import Rejection


@dataclass(frozen=True, eq=False)
class ConstrainedDirection:
    """The solution of the problem above.

    Attributes:
        displacement: d, (P,).
        case: what determined d.
        damping: the λ that was used.
        solution: the solver's result for g.
        rejection: why there is no step, or None.
    """

    displacement: Tensor
    case: Case
    damping: float
    solution: Solution | None
    rejection: Rejection | None = None


def constrained_direction(
    fisher: LinearOperator,
    gradient: Tensor,
    constraint_gradients: Tensor,
    excesses: Sequence[float],
    *,
    target_kl: float = 0.01,
    damping: float = 0.1,
    solver: Solver = conjugate_gradient,
    project: bool = False,
) -> ConstrainedDirection:
    """Solve the problem above, in the span of x = (F + λI)⁻¹ g and pᵢ = (F + λI)⁻¹ bᵢ.

    With λ = 0 and exact solutions of the linear systems, this is the exact solution. λ affects directions
    only, as in a step without constraints: the nearest point to t · x that satisfies all constraints is found
    in the metric F + λI, and t is the largest one for which ½ dᵀFd ≤ δ.

    The pᵢ are computed only if the step without constraints would violate one: each costs one linear system.

    Args:
        fisher: F.
        gradient: g, (P,).
        constraint_gradients: the bᵢ, (m, P).
        excesses: the cᵢ, by how much each constrained quantity exceeds its limit; negative if it is below.
        target_kl: δ in nats.
        damping: λ ≥ 0.
        solver: solves the linear systems.
        project: make the step without constraints and project it onto the constraints, instead of maximising
            gᵀd subject to them (PCPO: Yang et al. 2020, with the projection in the metric F + λI).

    Raises:
        ValueError: the number of excesses is not m, or one is not finite.
    """
    if len(excesses) != len(constraint_gradients) or not all(map(math.isfinite, excesses)):
        raise ValueError(
            f"expected one finite excess per constraint, {len(constraint_gradients)}; got {list(excesses)}"
        )
    natural = natural_direction(fisher, gradient, damping=damping, solver=solver)
    none = gradient * 0
    if natural.rejection not in (None, Rejection.NO_IMPROVEMENT):
        return ConstrainedDirection(none, Case.FREE, natural.damping, natural.solution, natural.rejection)
    b = ScaledRows.of(constraint_gradients)
    (values,) = host.fetch(b.rows @ natural.x)
    if natural.rejection is None:
        length = math.sqrt(2 * target_kl / natural.curvature)
        predicted = [c + s * length * v for c, s, v in zip(excesses, b.scales, values.tolist(), strict=True)]
        if max(predicted, default=-1.0) <= 0:
            return ConstrainedDirection(length * natural.x, Case.FREE, natural.damping, natural.solution)
    elif max(excesses, default=-1.0) <= 0:
        return ConstrainedDirection(none, Case.FREE, natural.damping, natural.solution, natural.rejection)
    solutions = torch.stack([natural.x, *(solver(Damped(fisher, natural.damping), row).x for row in b.rows)])
    problem = ConstrainedProblem.of(fisher, natural.damping, solutions, b, excesses, target_kl)
    if problem is None:
        return ConstrainedDirection(
            none, Case.RECOVERY, natural.damping, natural.solution, Rejection.NON_FINITE_FISHER
        )
    z, case = problem.projected() if project else problem.solved()
    weights = (problem.basis @ z).to(solutions)
    d = weights @ solutions
    useless = None if z.any() else Rejection.NO_IMPROVEMENT
    return ConstrainedDirection(d, case, natural.damping, natural.solution, useless)
