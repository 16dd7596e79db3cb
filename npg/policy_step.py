"""The result of one policy update."""

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Self

import torch
from torch import Tensor

from npg import host
from npg.conjugate_gradient import Solution
from npg.objective import Evaluation, SurrogateObjective


class Rejection(StrEnum):
    """Why a step was rejected; `advice` says what to do about it."""

    NO_IMPROVEMENT = "no_improvement"
    KL_ABOVE_TARGET = "kl_above_target"
    CONSTRAINT_ABOVE_LIMIT = "constraint_above_limit"
    NEGATIVE_CURVATURE = "negative_curvature"
    SINGULAR_FISHER = "singular_fisher"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    NON_FINITE_FISHER = "non_finite_fisher"
    NON_FINITE_SURROGATE = "non_finite_surrogate"
    NON_FINITE_KL = "non_finite_kl"

    @property
    def advice(self) -> str:
        """What to do if steps are often rejected for this reason."""
        numbers = "look for NaN or infinity in observations, advantages and parameters"
        return {
            Rejection.NO_IMPROVEMENT: "use more states per update, or check that the advantages differ",
            Rejection.KL_ABOVE_TARGET: "allow more iterations of the line search, or raise the damping",
            Rejection.CONSTRAINT_ABOVE_LIMIT: "use more states per update, or a smaller target_kl",
            Rejection.NEGATIVE_CURVATURE: "raise the damping",
            Rejection.SINGULAR_FISHER: "raise the damping",
            Rejection.NON_FINITE_GRADIENT: numbers,
            Rejection.NON_FINITE_FISHER: numbers,
            Rejection.NON_FINITE_SURROGATE: "lower target_kl or the step size, or scale the advantages down",
            Rejection.NON_FINITE_KL: "lower target_kl or the step size, or bound the log standard deviation",
        }[self]

    @property
    def non_finite(self) -> bool:
        """Whether a number was NaN or infinite, as opposed to a search that found no step."""
        return self in (
            Rejection.NON_FINITE_GRADIENT,
            Rejection.NON_FINITE_FISHER,
            Rejection.NON_FINITE_SURROGATE,
            Rejection.NON_FINITE_KL,
        )

    @classmethod
    def of_gradient(cls, gradient: Tensor) -> "Rejection | None":
        """Return why this gradient (P,) allows no step, or None if it allows one."""
        return cls.of_gradient_size(host.read(size=gradient.abs().amax())["size"])

    @classmethod
    def of_gradient_size(cls, size: float) -> "Rejection | None":
        """Return why a gradient with this largest absolute entry allows no step, or None if it allows one."""
        if not isfinite(size):
            return cls.NON_FINITE_GRADIENT
        return None if size > 0 else cls.NO_IMPROVEMENT

    @classmethod
    def of_numbers(cls, evaluation: Evaluation) -> "Rejection | None":
        """Return why a candidate's numbers are unusable, or None if they are usable."""
        if not (isfinite(evaluation.surrogate) and isfinite(evaluation.gain)):
            return cls.NON_FINITE_SURROGATE
        return None if isfinite(evaluation.kl) else cls.NON_FINITE_KL


@dataclass(frozen=True, eq=False)
class PolicyStep:
    """One update of the policy, accepted or rejected.

    In a rejected step, displacement, KL and gains are zero, since the parameters stay as they are.

    Attributes:
        displacement: d, to be added to the parameters, (P,).
        rejection: None if the step is accepted, else the reason.
        surrogate: the objective at the new parameters, in units of the advantage.
        gain: the actual improvement of the surrogate.
        predicted_gain: the improvement predicted to first order, gᵀd.
        kl: KL(π_old ‖ π_new), joint over action dimensions, mean over states, in nats.
        step_length: ‖d‖.
        cosine: cosine of the angle between g and d; 1 if the metric did not change the direction.
        backtracks: how many times the line search shortened the step.
        damping: the λ that was used, which is larger than the given one if the curvature was not positive.
        solution: the linear solver's result; None if no system was solved.
    """

    displacement: Tensor
    rejection: Rejection | None
    surrogate: float
    gain: float = 0.0
    predicted_gain: float = 0.0
    kl: float = 0.0
    step_length: float = 0.0
    cosine: float = 0.0
    backtracks: int = 0
    damping: float = 0.0
    solution: Solution | None = None

    @classmethod
    def of(
        cls,
        displacement: Tensor,
        rejection: Rejection | None,
        evaluation: Evaluation,
        *,
        backtracks: int = 0,
        damping: float = 0.0,
        solution: Solution | None = None,
    ) -> Self:
        """Return the result for a displacement (P,), its evaluation and, if it is rejected, the reason."""
        if rejection is not None:
            displacement = torch.zeros_like(displacement)
            evaluation = Evaluation(evaluation.surrogate_before, 0.0, 0.0)
        return cls(
            displacement,
            rejection,
            surrogate=evaluation.surrogate,
            gain=evaluation.gain,
            predicted_gain=evaluation.predicted_gain,
            kl=evaluation.kl,
            step_length=evaluation.step_norm,
            cosine=evaluation.cosine,
            backtracks=backtracks,
            damping=damping,
            solution=solution,
        )

    @classmethod
    def without_candidate(cls, objective: SurrogateObjective, rejection: Rejection | None = None) -> Self:
        """Return the result of an update without a displacement to try.

        Args:
            objective: the update's objective.
            rejection: the reason; by default it is derived from the gradient.
        """
        numbers = host.read(
            size=objective.gradient().abs().amax(), surrogate_before=objective.surrogate_before()
        )
        rejection = rejection or Rejection.of_gradient_size(numbers["size"])
        return cls.of(objective.gradient(), rejection, Evaluation(0.0, 0.0, 0.0, numbers["surrogate_before"]))

    @property
    def accepted(self) -> bool:
        """Whether the displacement is to be added."""
        return self.rejection is None

    def scalars(self) -> dict[str, float]:
        """Return {name: number} for the log."""
        scalars = {
            "kl": self.kl,
            "gain": self.gain,
            "predicted_gain": self.predicted_gain,
            "step_length": self.step_length,
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
