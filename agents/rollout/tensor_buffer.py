"""A rollout as tensors on the agent's device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor

from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.rollout.episode_tally import EpisodeTally
from agents.rollout.tensor_actions import TensorActions
from agents.rollout.tensor_stepper import TensorStepper

# Attributes with one row per step.
ROWS = ("actions", "rewards", "final_observations", "truncated", "parameters", "values", "log_probs")


class TensorRolloutBuffer(RolloutBuffer):
    """The buffer of rollouts in tensor environments; its arrays are tensors (T, N, ...) on a device.

    They have SB3's names, are allocated once, and `Batch` reads them without a copy, step by step: state
    t · N + i is step t of environment i. SB3's `get` works too.

    Attributes:
        states: (T + 1, N, ...) the observations before each step, and those after the last one.
        starts: (T + 1, N) bool: whether each of them is the first of an episode.
        final_observations: (T, N, ...) what each step led to, before any reset.
        truncated: (T, N) bool: whether the step ended an episode that would have continued.
        parameters: (T, N, K) parameters of the distributions of the actions; None until the first step.
        tally: the returns and lengths of episodes.
        stepper: what makes the steps; None before the first rollout.
        to_environment: what converts the actions; None before the first rollout.
        shown: the array that the agent has as its last observations; None before the first rollout.
    """

    observations: Any
    actions: Any
    rewards: Any
    episode_starts: Any
    values: Any
    log_probs: Any
    advantages: Any
    returns: Any
    states: Any
    starts: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        self.states = None  # until the first rollout
        self.parameters: Tensor | None = None
        self.shown: Any = None
        self.stepper: TensorStepper | None = None
        self.to_environment: TensorActions | None = None
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Start a rollout with the observations after the last step of the previous one."""
        if self.states is None:
            self._allocate()
        self.states[0].copy_(self.states[self.pos])
        self.starts[0].copy_(self.starts[self.pos])
        self.pos, self.full, self.generator_ready = 0, False, False
        # SB3's `get` replaces these attributes by reordered copies.
        self.observations = self.states[:-1]
        self.episode_starts = self.starts[:-1]
        for name, tensor in self._tensors.items():
            setattr(self, name, tensor)

    def _allocate(self) -> None:
        steps, shape = (self.buffer_size, self.n_envs), self.observation_space.shape
        options: dict[str, Any] = {"device": self.device}
        observed = torch_dtype(self.observation_space.dtype)
        discrete = isinstance(self.action_space, spaces.Discrete)
        acted = () if discrete else (self.action_dim,)
        self.pos = 0
        self.states = torch.zeros(steps[0] + 1, steps[1], *shape, dtype=observed, **options)  # type: ignore[misc]
        self.starts = torch.ones(steps[0] + 1, steps[1], dtype=torch.bool, **options)
        self.final_observations = torch.zeros(*steps, *shape, dtype=observed, **options)  # type: ignore[misc]
        self.truncated = torch.zeros(steps, dtype=torch.bool, **options)
        names = ("rewards", "values", "log_probs", "advantages", "returns")
        self._tensors = {name: torch.zeros(steps, **options) for name in names}
        kind = torch.int64 if discrete else torch.float32
        self._tensors["actions"] = torch.zeros(*steps, *acted, dtype=kind, **options)
        self.tally = EpisodeTally(self.n_envs, torch.device(self.device))

    def begin(self, observations: Any, starts: Any) -> None:
        """Start from what the host has, e.g. after a reset, instead of the end of the previous rollout.

        Args:
            observations: (N, ...).
            starts: whether each is the first of an episode, (N,).
        """
        self.states[0].copy_(torch.as_tensor(observations))
        self.starts[0].copy_(torch.as_tensor(starts))

    def add_step(self, rows: Mapping[str, Tensor]) -> None:
        """Append a step.

        Args:
            rows: {attribute: the step's row in it, (N, ...)}; `states` and `starts` are those after the step,
                and other names are ignored.
        """
        if self.parameters is None and "parameters" in rows:
            self.parameters = rows["parameters"].new_zeros(self.buffer_size, *rows["parameters"].shape)
        for name, tensor in rows.items():
            if name in ("states", "starts"):
                getattr(self, name)[self.pos + 1].copy_(tensor)
            elif name in ROWS:
                row = getattr(self, name)[self.pos]
                row.copy_(tensor.reshape(row.shape))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def flat(self, name: str) -> Tensor:
        """Return the tensor of that name as (T · N, ...), a view."""
        return getattr(self, name).flatten(0, 1)  # type: ignore[no-any-return]

    def to_torch(self, array: Any, copy: bool = True) -> Tensor:
        """Return a tensor on the device."""
        return torch.as_tensor(array, device=self.device)

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> RolloutBufferSamples:
        rows = torch.as_tensor(batch_inds, device=self.device)
        actions = self.actions[rows]
        return RolloutBufferSamples(
            self.observations[rows],
            actions.float() if actions.ndim > 1 else actions.float().unsqueeze(1),
            *(
                getattr(self, name)[rows].flatten()
                for name in ("values", "log_probs", "advantages", "returns")
            ),
        )


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return the torch dtype of a NumPy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def make_buffer(agent: OnPolicyAlgorithm) -> RolloutBuffer:
    """Return the buffer for an agent's environment: of tensors, if its rollouts can stay on the device.

    They can if the environment has the attribute `tensor_env`, on the agent's device, without a wrapper like
    `VecNormalize` around it, if the user has chosen neither a class of buffers nor a recurrent policy, and if
    actions are not masked.
    """
    tensor_env = None if isinstance(agent.env, VecEnvWrapper) else getattr(agent.env, "tensor_env", None)
    present, chosen = agent.rollout_buffer, agent.rollout_buffer_class or RolloutBuffer
    near = tensor_env is not None and same_device(tensor_env.device, agent.device)
    near = near and not isinstance(agent.policy, MlpLstmPolicy)  # whose states `collect` keeps
    near = near and not getattr(agent, "masked", False)  # the host reads masks at every step
    suitable: type[RolloutBuffer] = TensorRolloutBuffer if near and chosen is RolloutBuffer else chosen
    if type(present) is suitable:
        return present
    return suitable(
        agent.n_steps,
        agent.observation_space,
        agent.action_space,
        device=agent.device,
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        n_envs=agent.n_envs,
        **agent.rollout_buffer_kwargs,
    )


def same_device(one: torch.device, other: torch.device) -> bool:
    """Return whether two devices are the same; without an index, one is that of its type."""
    return one.type == other.type and (None in (one.index, other.index) or one.index == other.index)
