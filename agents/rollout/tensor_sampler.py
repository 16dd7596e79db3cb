"""Sample actions as tensors, without a host read if the policy is a plain MLP."""

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.policy.actor import unvalidated
from agents.rollout.action_sampler import ActionSampler, MlpSampler, make_sampler, plain_actor


class TensorSampler:
    """Sample actions in tensor environments.

    From equal random numbers it draws the actions of `MlpSampler`, `PolicySampler` or the policy's `forward`.
    torch's own samplers read the device to validate their parameters. For a plain MLP (see `plain_actor`)
    this class does not use them; for other policies it does.

    Args:
        policy: the policy.

    Attributes:
        sampler: what evaluates the actions later; None if `sample` returns values and log-probabilities.
        layers: those of a plain MLP, whose sampling reads nothing from the device; else None.
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.sampler: ActionSampler | None = make_sampler(policy)
        self.layers = plain_actor(policy) if isinstance(self.sampler, MlpSampler) else None
        self._policy = policy

    def sample(self, observations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return actions (N, ...), and what else is known by the names in `TensorRolloutBuffer`."""
        if isinstance(self.sampler, MlpSampler):
            parameters = self.sampler.parameters(observations)
            return draw(parameters, self.sampler.log_std), {"parameters": parameters}
        with unvalidated():
            if self.sampler is not None:
                return self.sampler.sample(observations)[0], {}
            actions, values, log_probs = self._policy(observations)
        return actions, {"values": values.flatten(), "log_probs": log_probs}

    def evaluate(self, observations: Tensor, actions: Tensor, parameters: Tensor | None) -> Any:
        """Return values (N,) and log-probabilities (N,) of actions sampled over any number of steps."""
        assert self.sampler is not None
        with unvalidated():
            values, log_probs = self.sampler.evaluate(observations, actions, parameters)
        return values.flatten(), log_probs


def draw(parameters: Tensor, log_std: Tensor | None) -> Tensor:
    """Draw from logits or, with a log_std, from means, as torch.multinomial and torch.normal do."""
    if log_std is not None:
        return parameters + torch.randn_like(parameters) * log_std.exp()
    # The choice with the smallest waiting time; these are exponential with the rates p.
    waiting = torch.empty_like(parameters).exponential_()
    return torch.argmax(parameters.softmax(-1).div_(waiting), -1)
