"""Tensor versions of tasks in Gymnasium's registry."""

from typing import Any, ClassVar

import gymnasium as gym
import torch

from envs.tensor.tensor_task import TensorTask


class GymnasiumTask(TensorTask):
    """A tensor version of a registered task, which supplies its constants, spaces and time limit.

    Attributes:
        model: one environment of Gymnasium, without wrappers; it is never stepped.
    """

    SPEC_ID: ClassVar[str]

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Start the first episodes.

        Args:
            num_envs: The number of environments, N.
            device: Where all tensors are.
            dtype: Of states, observations and rewards.
            seed: See `TensorEnv.seed`.
            kwargs: Of ``gymnasium.make``: ``max_episode_steps`` and what the task itself takes.
        """
        env: Any = gym.make(self.SPEC_ID, **kwargs)
        self.model: Any = env.unwrapped
        self.prepare(num_envs, torch.device(device), dtype)
        super().__init__(
            num_envs,
            env.observation_space,
            env.action_space,
            max_episode_steps=env.spec.max_episode_steps,
            device=device,
            dtype=dtype,
            spec_id=self.SPEC_ID,
            seed=seed,
        )

    def prepare(self, num_envs: int, device: torch.device, dtype: torch.dtype) -> None:
        """Allocate what `advance` needs besides `state`."""
