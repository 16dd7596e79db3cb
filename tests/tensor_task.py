"""A tensor environment with any action space, whose episodes end in both ways at random."""

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.tensor.tensor_env import TensorEnv, TensorStep

OBSERVATIONS = spaces.Box(-5, 5, (3,))
ACTIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(np.array([-0.5, 0.0], np.float32), np.array([0.5, 2.0], np.float32)),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


class RandomTask(TensorEnv):
    """The observation is a random walk that the actions push; a tenth of the steps ends an episode.

    Args:
        num_envs: N.
        action_space: of one environment.
        bad: {number of a step, from 0: (name in `TensorStep`, index of an environment)} where a NaN is to be.
        kwargs: see `TensorEnv`.
    """

    def __init__(
        self,
        num_envs: int,
        action_space: spaces.Space,
        bad: dict[int, tuple[str, int]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            num_envs, OBSERVATIONS, copy.deepcopy(action_space), spec_id="RandomTask-v0", **kwargs
        )
        self.bad, self.steps = bad or {}, 0
        self.state = torch.zeros(num_envs, 3, device=self.device, dtype=self.dtype)

    def reset(self) -> Tensor:
        """Start anywhere."""
        self.state.normal_(generator=self.generator)
        return self.state.clone()

    def step(self, actions: Tensor) -> TensorStep:
        """Walk."""
        noise = torch.empty(self.num_envs, 6, device=self.device, dtype=self.dtype)
        noise.normal_(generator=self.generator)
        push = actions.reshape(self.num_envs, -1).to(self.dtype).mean(1, keepdim=True)
        final = 0.9 * self.state + 0.1 * push + 0.3 * noise[:, :3]
        terminated, truncated = noise[:, 3] > 1.6, noise[:, 4] > 1.6
        done = (terminated | truncated).unsqueeze(1)
        self.state.copy_(torch.where(done, noise[:, 3:], final))
        step = TensorStep(self.state.clone(), final.sum(1), terminated, truncated, final)
        if self.steps in self.bad:
            name, environment = self.bad[self.steps]
            getattr(step, name)[environment] = torch.nan
        self.steps += 1
        return step

    def state_dict(self) -> dict[str, Tensor]:
        """Return the walk and the generator."""
        return {"state": self.state.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        self.state.copy_(state["state"])
        self.generator.set_state(state["generator"])
