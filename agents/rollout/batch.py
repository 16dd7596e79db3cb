"""The data of one update."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from agents.policy.recurrent.sequences import Sequences
from agents.ranks import ONE, Ranks
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from npg.host import scalar_dtype
from npg.states import each, select


@dataclass(frozen=True, eq=False)
class Batch:
    """N transitions as tensors on the agent's device.

    Attributes:
        observations: input of the critic: a tensor (N, ...), a dictionary of them, or `Sequences`.
        actions: (N,) int64 for Discrete actions, else (N, A).
        old_log_prob: log-probability of the actions under the policy that took them, (N,), in nats.
        old_values: the critic's estimates during the rollout, (N,).
        advantages: (N,).
        returns: targets of the critic, (N,).
        action_masks: whether each action was allowed, (N, K) of bool; None if all were.
    """

    observations: Any
    actions: Tensor
    old_log_prob: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None = None

    @property
    def inputs(self) -> Any:
        """Input of the actor: the observations, or a pair of them and the masks."""
        return self.observations if self.action_masks is None else (self.observations, self.action_masks)

    def __len__(self) -> int:
        return self.returns.shape[0]

    @classmethod
    def from_buffer(cls, buffer: RolloutBuffer, action_space: spaces.Space) -> "Batch":
        """Read a full rollout buffer in order, environment by environment.

        A buffer of tensors is read step by step instead, and not copied: the next rollout overwrites the
        batch. SB3's `get` is not used, since it draws a permutation from NumPy's global generator.
        """
        if isinstance(buffer, TensorRolloutBuffer):
            fields = ("observations", "actions", "log_probs", "values", "advantages", "returns")
            return cls(*map(buffer.flat, fields))
        masks = getattr(buffer, "action_masks", None)
        if not buffer.generator_ready:  # SB3's flag for a buffer that is flat already
            flattened = ("observations", "actions", "values", "log_probs", "advantages", "returns")
            for name in flattened if masks is None else (*flattened, "action_masks"):
                flat = each(buffer.swap_and_flatten, getattr(buffer, name))  # type: ignore[arg-type]  # arrays
                setattr(buffer, name, flat)
            buffer.generator_ready = True
        samples = buffer._get_samples(np.arange(len(buffer.returns)))
        actions = samples.actions
        if isinstance(action_space, spaces.Discrete):
            actions = actions.long().flatten()  # the buffer stores them as a column of floats
        observations: Any = samples.observations
        if (states := getattr(buffer, "recurrent_states", None)) is not None:
            observations = Sequences.of_rollout(observations, buffer.episode_starts, states)
        return cls(
            observations,
            actions,
            samples.old_log_prob,
            samples.old_values,
            samples.advantages,
            samples.returns,
            None if masks is None else buffer.to_torch(buffer.action_masks),  # type: ignore[attr-defined]
        )

    def select(self, indices: Tensor | slice) -> Any:
        """Return the observations at the indices."""
        return select(self.observations, indices)

    def every(self, k: int, first: int = 0) -> Any:
        """Return the actor's input at every k-th state; if there are sequences, in every k-th sequence."""
        if not isinstance(self.observations, Sequences):
            return select(self.inputs, slice(first, None, k))
        sequences = np.arange(0, len(self.observations.lengths), k)
        return select(self.inputs, torch.as_tensor(self.observations.states_of(sequences)))


def standardise(advantages: Tensor, ranks: Ranks = ONE) -> Tensor:
    """Return advantages (N,) with mean 0 and standard deviation 1 over all ranks.

    If they are equal up to rounding, the result is exactly 0, not rounding noise scaled up to unit size.
    """
    exact = advantages.to(scalar_dtype(advantages.device))  # in which the mean of equal numbers is exact
    _, mean, variance = ranks.moments(exact)
    deviation = variance.sqrt()
    rounding = torch.finfo(advantages.dtype).eps * mean.abs()
    return torch.where(deviation <= rounding, 0, (exact - mean) / deviation).to(advantages.dtype)
