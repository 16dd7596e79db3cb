"""Tensor versions of tasks in Gymnasium's registry."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

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
        self.render_mode = self.model.render_mode
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

    def show_in_model(self, state: NDArray[Any]) -> None:
        """Give `model` a state (...), so that it renders it."""
        self.model.state = state

    def render(self, index: int) -> NDArray[np.uint8] | None:
        """Return Gymnasium's frame of one environment; None without a render mode."""
        if self.render_mode is None:
            return None
        self.show_in_model(self.state[..., index].double().cpu().numpy())
        frame: NDArray[np.uint8] | None = self.model.render()
        return frame
