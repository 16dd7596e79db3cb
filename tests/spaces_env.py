"""A task with any observation and any action space."""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

EPISODE = 10


def discrete(n: int, dtype: type[np.integer[Any]], start: int = 0) -> spaces.Discrete:
    """Return a Discrete of this dtype, or of int64 with Gymnasium before 1.3, which has no other."""
    options = {"dtype": dtype} if "dtype" in inspect.signature(spaces.Discrete).parameters else {}
    return spaces.Discrete(n, start=start, **options)


class SpacesEnv(gym.Env):
    """Draws observations at random, rewards actions by their sum, and ends after ten steps.

    Args:
        observation_space: to draw from.
        action_space: to be legal in.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space
        self.metadata = {"render_modes": []}  # Gymnasium's vectors before 1.4 write into it
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin again."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._step = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Check that the action is in the space, and continue the episode."""
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self._step += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        return self.observation_space.sample(), reward, self._step == EPISODE, False, {}


OBSERVATIONS = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "matrix": spaces.Box(-1, 1, (2, 2), np.float64),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "image_first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
    "image_last": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "dict": spaces.Dict(
        {
            "vector": spaces.Box(-1, 1, (2,), np.float32),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "choice": spaces.Discrete(3),
        }
    ),
}
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


def policy_for(observation_space: spaces.Space) -> str:
    """Return the name of SB3's policy for a space."""
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if len(observation_space.shape) == 3 else "MlpPolicy"
