"""A task whose rewards and ends are written down by the test."""

from typing import Any

import gymnasium as gym
import numpy as np


class Episodes(gym.Env):
    """Gives the rewards in order, then ends the episode by termination or truncation, and repeats.

    Args:
        rewards: of one episode.
        ends: "terminated" or "truncated".
        action_space: of the actions, which change nothing.
        observations: of one episode, one more than rewards; the step's number by default.
    """

    def __init__(
        self,
        rewards: list[float],
        ends: str = "terminated",
        action_space: gym.Space | None = None,
        observations: list[float] | None = None,
    ):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = action_space or gym.spaces.Discrete(2)
        self._rewards, self._ends = rewards, ends
        self._observations = observations or [float(i) for i in range(len(rewards) + 1)]
        self._step = 0

    def _observe(self) -> np.ndarray:
        return np.array([self._observations[self._step]], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Begin again."""
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Give the next reward."""
        reward = self._rewards[self._step]
        self._step += 1
        over = self._step == len(self._rewards)
        return (
            self._observe(),
            reward,
            over and self._ends == "terminated",
            over and self._ends == "truncated",
            {},
        )
