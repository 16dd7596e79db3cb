"""The recurrent states of a rollout."""

from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from agents.policy.masks import split
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.policy.recurrent.sequences import Sequences


class Memory:
    """What a recurrent policy remembers of the current episodes.

    Between rollouts, the agent's attribute `recurrent_states` keeps it.

    Args:
        agent: an agent with a recurrent policy.

    Attributes:
        states: recurrent states after the last observations that the policy acted on, (K, layers, n_envs, H).
    """

    def __init__(self, agent: Any):
        self._agent = agent
        zeros = agent.policy.zero_states(agent.n_envs)
        kept: Tensor | None = agent.recurrent_states
        self.states = zeros if kept is None or kept.shape != zeros.shape else kept.to(zeros)
        self._before = self.states

    @classmethod
    def of(cls, agent: OnPolicyAlgorithm) -> "Memory | None":
        """Return an agent's memory; None if its policy is not recurrent."""
        return cls(agent) if isinstance(agent.policy, MlpLstmPolicy) else None

    def recall(self, observations: Any) -> Sequences:
        """Return raw observations (n_envs, ...) with the recurrent states: zeros if an episode starts."""
        starts = torch.as_tensor(self._agent._last_episode_starts, device=self.states.device)
        return Sequences.of_step(observations, self.states * ~starts.bool().unsqueeze(1))

    def act(self, inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities, and remember the observations.

        Args:
            inputs: raw observations (n_envs, ...), or a pair of them and masks.
        """
        observations, masks = split(inputs)
        actions, values, log_probs, self.states = self._agent.policy(self.recall(observations), **masks)
        self._agent.recurrent_states = self.states
        return actions, values, log_probs

    def keep_in(self, buffer: RolloutBuffer) -> None:
        """Store the recurrent states before the rollout in its buffer, for the update."""
        buffer.recurrent_states = self._before  # type: ignore[attr-defined]
