"""Vanilla policy gradient: a step along g, rescaled per parameter by Adam."""

import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor, nn

from agents.base import PolicyGradientAgent
from agents.policy.snapshot import Snapshot
from agents.rollout.batch import Batch
from npg import Evaluation, FlatParameters, PolicyStep, Rejection, SurrogateObjective, host


class VPG(PolicyGradientAgent):
    """Policy gradient with a learned baseline (Williams 1992; Sutton et al. 2000), with steps by Adam.

    Args:
        learning_rate: learning rate of the policy; a number or a schedule.
        critic_learning_rate: learning rate of the critic.
    """

    learning_rate: float | Schedule = 3e-3
    critic_learning_rate: float = 1e-3

    def _setup_model(self) -> None:
        super()._setup_model()
        self._start_optimizer(FlatParameters(self.actor).vector())

    def _start_optimizer(self, theta: Tensor) -> None:
        # Adam works on a copy, so that its step is a displacement like any other agent's: it is evaluated
        # first, and applied in the one place that writes parameters.
        self.actor_vector = nn.Parameter(theta)
        self.actor_optimizer = torch.optim.Adam([self.actor_vector], lr=self.lr_schedule(1), eps=1e-5)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor_vector", "actor_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "actor_optimizer"], tensors

    def _update_learning_rates(self) -> None:
        self._update_learning_rate(self.actor_optimizer)
        update_learning_rate(self.policy.optimizer, self.critic_learning_rate)

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return Adam's step along the gradient, rejected only if its numbers are not finite."""
        gradient = objective.gradient()
        theta = objective.parameters.vector()
        if theta.shape != self.actor_vector.shape:  # layers were frozen, or the policy replaced
            self._start_optimizer(theta.clone())
            self._update_learning_rates()
        self.actor_vector.data.copy_(theta)
        before = Snapshot([self.actor_vector], self.actor_optimizer)
        self.actor_vector.grad = -gradient
        self.actor_optimizer.step()
        displacement = self.actor_vector.detach() - theta
        numbers = host.read(
            **objective.measure(displacement),
            gradient_size=gradient.abs().amax(),
            finite=before.still_finite(),
        )
        evaluation = Evaluation.of(numbers)
        rejection = Rejection.of_gradient_size(numbers["gradient_size"]) or Rejection.of_numbers(evaluation)
        if not numbers["finite"]:  # Adam squares the gradient, which may overflow
            rejection = Rejection.NON_FINITE_GRADIENT
        if rejection is not None:
            before.restore()
        return PolicyStep.of(displacement, rejection, evaluation)
