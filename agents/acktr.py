"""Actor critic with Kronecker-factored trust regions: K-FAC for policy and critic, without a line search."""

import operator
from typing import ClassVar

from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.base import PolicyGradientAgent
from agents.critic import Critic, MinibatchCritic
from agents.critic.kronecker import KroneckerCritic, ValueDistribution
from agents.hyperparameters import check_resolution
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.rollout.batch import Batch
from npg import (
    Evaluation,
    KroneckerFisher,
    KroneckerStepper,
    PolicyStep,
    Rejection,
    SingularMatrixError,
    SurrogateObjective,
    host,
)


class ACKTR(PolicyGradientAgent):
    """Actor critic using Kronecker-factored trust regions (Wu et al. 2017).

    Args:
        learning_rate: η, the largest multiple of F⁻¹g that is taken as a step; a number or a schedule.
        critic_learning_rate: η of the critic, whose F is the Gauss-Newton matrix.
        n_critic_updates: passes of the critic over the batch per update, with one step per minibatch.
        target_kl: δ, the largest predicted KL(old ‖ new) of a step, joint over action dimensions, mean over
            states, in nats; a number or a schedule.
        critic_target_kl: δ of the critic, taken as a Gaussian with the variance of its errors: a step changes
            the values of a linear critic by at most sqrt(2δ) times their root mean squared error.
        damping: λ, split between the two Kronecker factors; for the critic, in units of its squared error.
        momentum: μ, the weight of the last step in the next.
        fisher_decay: weight of the averages so far when new statistics are added to the factors.
        fisher_samples: random draws per state that estimate the factors of the gradients, with one backward
            pass each; None for the exact expectation, with one per coordinate of the distribution.
        factor_interval: number of updates per refresh of the factors.
        inverse_interval: number of updates per refresh of their inverses.
    """

    critic_fit: ClassVar[str] = "kronecker"  # type: ignore[misc]  # no argument here
    learning_rate: float | Schedule = 0.25
    n_steps = 512
    batch_size: int | None = None
    n_critic_updates = 1
    target_kl: float | Schedule = 0.1
    critic_learning_rate: float = 1.0
    critic_target_kl: float = 0.5
    damping: float = 0.1
    momentum: float = 0.9
    fisher_decay: float = 0.8
    fisher_samples: int | None = 1
    factor_interval: int = 8
    inverse_interval: int = 8

    def _setup_model(self) -> None:
        if issubclass(self.policy_class, MlpLstmPolicy):
            raise ValueError(
                "ACKTR has no Kronecker factors for recurrent layers, whose weights are used at every step; "
                f"use TRPO or NPG with {self.policy_class.__name__}"
            )
        super()._setup_model()
        check_resolution(self.policy, target_kl=self.target_kl, critic_target_kl=self.critic_target_kl)
        self._start()

    def _start(self) -> None:
        """Make the critic and both steppers, without statistics."""
        critic = self.actor.critic_parameters()
        self.critic = ValueDistribution(self.policy, critic)
        self.actor_stepper = self._stepper(self.actor)
        self.critic_stepper = self._stepper(self.critic) if critic else None
        self._followed = self._movable()

    def _movable(self) -> list[nn.Parameter]:
        return [p for p in self.policy.parameters() if p.requires_grad]

    def _restart_if_changed(self) -> None:
        """Start again if layers were frozen or the policy was replaced since the last update."""
        movable, followed = self._movable(), self._followed
        if len(movable) != len(followed) or any(map(operator.is_not, movable, followed)):
            self._start()

    def _stepper(self, module: nn.Module) -> KroneckerStepper:
        return KroneckerStepper(
            KroneckerFisher(module, samples=self.fisher_samples, reduce=self.ranks.mean),
            damping=self.damping,
            decay=self.fisher_decay,
            momentum=self.momentum,
            factor_interval=self.factor_interval,
            inverse_interval=self.inverse_interval,
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor_stepper", "critic", "critic_stepper", "_followed"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        steppers = ["actor_stepper"] if self.critic_stepper is None else ["actor_stepper", "critic_stepper"]
        return [*state_dicts, *steppers], tensors

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the step along the Kronecker-factored natural gradient, rejected if it is not finite."""
        self._restart_if_changed()
        gradient = objective.gradient()
        try:
            self.actor_stepper.observe(batch.inputs)
        except FloatingPointError:
            return PolicyStep.without_candidate(objective, Rejection.NON_FINITE_FISHER)
        except SingularMatrixError:
            return PolicyStep.without_candidate(objective, Rejection.SINGULAR_FISHER)
        displacement = self.actor_stepper.displacement(
            gradient,
            step_size=self.lr_schedule(self._current_progress_remaining),
            target_kl=self.scheduled("target_kl"),
        )
        numbers = host.read(**objective.measure(displacement), gradient_size=gradient.abs().amax())
        evaluation = Evaluation.of(numbers)
        rejection = Rejection.of_gradient_size(numbers["gradient_size"]) or Rejection.of_numbers(evaluation)
        if rejection is None:
            self.actor_stepper.keep(displacement)
        return PolicyStep.of(displacement, rejection, evaluation)

    def make_critic(self) -> Critic:
        """Return the fit by K-FAC, or one that does nothing if the critic has no parameters."""
        self._restart_if_changed()
        if self.critic_stepper is None:
            return MinibatchCritic(self.policy, [], passes=0)
        return KroneckerCritic(
            self.critic,
            self.critic_stepper,
            passes=self.n_critic_updates,
            batch_size=self.batch_size,
            step_size=self.critic_learning_rate,
            target_kl=self.critic_target_kl,
            ranks=self.ranks,
        )
