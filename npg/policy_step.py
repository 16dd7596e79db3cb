"""The account of one policy update."""

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Self

import torch
from torch import Tensor

from npg.conjugate_gradient import Solution
from npg.objective import Evaluation, SurrogateObjective


class Rejection(StrEnum):
    """Why a step was not taken."""

    NO_IMPROVEMENT = "no_improvement"
    KL_ABOVE_TARGET = "kl_above_target"
    NEGATIVE_CURVATURE = "negative_curvature"
    SINGULAR_FISHER = "singular_fisher"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    NON_FINITE_FISHER = "non_finite_fisher"
    NON_FINITE_SURROGATE = "non_finite_surrogate"
    NON_FINITE_KL = "non_finite_kl"

    @property
    def non_finite(self) -> bool:
        """Whether a number was NaN or infinite, which has nothing to do with a search that found nothing."""
        return self in (
            Rejection.NON_FINITE_GRADIENT,
            Rejection.NON_FINITE_FISHER,
            Rejection.NON_FINITE_SURROGATE,
            Rejection.NON_FINITE_KL,
        )

    @classmethod
    def of_gradient(cls, gradient: Tensor) -> "Rejection | None":
        """Return why no step can follow this gradient (P,), None where one can."""
        if not bool(torch.isfinite(gradient).all()):
            return cls.NON_FINITE_GRADIENT
        return None if bool(gradient.any()) else cls.NO_IMPROVEMENT

    @classmethod
    def of_numbers(cls, evaluation: Evaluation) -> "Rejection | None":
        """Return why a candidate's numbers cannot be trusted, None where they can."""
        if not (isfinite(evaluation.surrogate) and isfinite(evaluation.gain)):
            return cls.NON_FINITE_SURROGATE
        return None if isfinite(evaluation.kl) else cls.NON_FINITE_KL


@dataclass(frozen=True, eq=False)
class PolicyStep:
    """One update of the policy, taken or refused.

    Of a refused step, displacement, KL and gains are zero: the numbers agree with the parameters.

    Attributes:
        displacement: d, what to add to the parameters, (P,).
        rejection: None where the step is accepted, else the one reason why not.
        surrogate: the objective at the new parameters, in units of the advantage.
        gain: its actual improvement.
        predicted_gain: gᵀd.
        kl: KL(π_old ‖ π_new), joint over action dimensions, mean over states, in nats.
        cosine: of the angle between g and d; 1 says that the metric turned nothing.
        backtracks: how often the line search shortened the step.
        damping: the λ that was used, raised where the curvature asked for it.
        solution: the linear solver's account; None where no system was solved.
    """

    displacement: Tensor
    rejection: Rejection | None
    surrogate: float
    gain: float = 0.0
    predicted_gain: float = 0.0
    kl: float = 0.0
    cosine: float = 0.0
    backtracks: int = 0
    damping: float = 0.0
    solution: Solution | None = None

    @classmethod
    def taken(
        cls,
        gradient: Tensor,
        displacement: Tensor,
        evaluation: Evaluation,
        *,
        backtracks: int = 0,
        damping: float = 0.0,
        solution: Solution | None = None,
    ) -> Self:
        """Return the account of an accepted displacement (P,) along a gradient (P,)."""
        predicted_gain = float(gradient @ displacement)
        lengths = float(torch.linalg.vector_norm(gradient)) * float(torch.linalg.vector_norm(displacement))
        return cls(
            displacement,
            None,
            surrogate=evaluation.surrogate,
            gain=evaluation.gain,
            predicted_gain=predicted_gain,
            kl=evaluation.kl,
            cosine=predicted_gain / lengths if lengths else 0.0,
            backtracks=backtracks,
            damping=damping,
            solution=solution,
        )

    @classmethod
    def refused(
        cls,
        objective: SurrogateObjective,
        rejection: Rejection,
        *,
        backtracks: int = 0,
        damping: float = 0.0,
        solution: Solution | None = None,
    ) -> Self:
        """Return the account of a step that moves nothing."""
        nothing = torch.zeros_like(objective.parameters.vector())
        return cls(
            nothing,
            rejection,
            surrogate=objective.evaluate(nothing).surrogate,
            backtracks=backtracks,
            damping=damping,
            solution=solution,
        )

    @property
    def accepted(self) -> bool:
        """Whether the displacement is to be added."""
        return self.rejection is None

    def scalars(self) -> dict[str, float]:
        """Return the numbers worth logging, by name."""
        scalars = {
            "kl": self.kl,
            "gain": self.gain,
            "predicted_gain": self.predicted_gain,
            "step_length": float(torch.linalg.vector_norm(self.displacement)),
            "cosine": self.cosine,
            "backtracks": float(self.backtracks),
        }
        if self.predicted_gain > 0:
            scalars["gain_ratio"] = self.gain / self.predicted_gain
        if self.solution is not None:
            scalars["damping"] = self.damping
            scalars["cg_iterations"] = float(self.solution.iterations)
            scalars["cg_residual"] = self.solution.residual
        return scalars
