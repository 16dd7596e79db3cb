"""One step of policy and environment on the device, as a function of the observations."""

from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.rollout.tensor_actions import TensorActions
from agents.rollout.tensor_sampler import TensorSampler
from npg.captured import Captured


class TensorStepper:
    """Sample actions and step tensor environments with them.

    Args:
        policy: the policy.
        tensor_env: the environments, see `envs.tensor.TensorEnv`.
        to_environment: converts actions.
        capture: whether to replay the step as a CUDA graph, on a GPU and if the policy is a plain MLP. All
            tensors that the environments change in a step must be their attributes, changed in place.

    Attributes:
        sampler: the sampler of the actions.
    """

    def __init__(
        self, policy: ActorCriticPolicy, tensor_env: Any, to_environment: TensorActions, capture: bool
    ):
        self.sampler = TensorSampler(policy)
        self._policy, self._env, self._to_environment = policy, tensor_env, to_environment
        self._step: Any = self._advance
        self._parts: list[int] | None = None
        if capture and self.sampler.layers is not None:
            parts = policy, tensor_env, *self.sampler.layers, getattr(policy, "log_std", None)
            self._parts = [*map(id, parts)]
            generators = [tensor_env.generator]
            self._step = Captured(self._advance, policy.device, state=self._state, generators=generators)

    def suits(self, other: "TensorStepper") -> bool:
        """Return whether another stepper makes the same steps, so that the capture of this one fits."""
        return self._parts is not None and self._parts == other._parts

    def step(self, observations: Tensor) -> dict[str, Tensor]:
        """Make a step, and return its tensors by the names of their rows in `TensorRolloutBuffer`.

        In addition, they include `clipped_actions`, `terminated`, and `cut`, the environment's `truncated`.
        The next call may overwrite them.
        """
        return self._step(observations)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _advance(self, observations: Tensor) -> dict[str, Tensor]:
        actions, known = self.sampler.sample(observations)
        clipped = self._to_environment(actions)
        step = self._env.step(clipped)
        return known | {
            "actions": actions,
            "clipped_actions": clipped,
            "states": step.observations,
            "final_observations": step.final_observations,
            "rewards": step.rewards,
            "terminated": step.terminated,
            "cut": step.truncated,
            "truncated": step.truncated & ~step.terminated,
            "starts": step.terminated | step.truncated,
        }

    def _state(self) -> Iterator[Tensor]:
        yield from self._policy.parameters()
        yield from self._policy.buffers()
        yield from (value for value in vars(self._env).values() if isinstance(value, Tensor))
