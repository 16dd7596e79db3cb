"""A task that needs memory and masks: repeat an action that was shown once, among those that are allowed."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ACTIONS, ALLOWED, STEPS = 20, 4, 6


class RememberedEnv(gym.Env):
    """The first observation shows one of 20 actions; in each of six steps, taking it is rewarded with 1.

    Later observations show nothing. The mask allows it and three others, which are drawn at random; any other
    action ends the episode. So a policy

    - with memory and masks can get 6,
    - with masks alone at most 2.25 on average: 1 in the first step, then 1/4 each,
    - with memory alone has to learn what is forbidden from the ends of episodes.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as gym.Env)

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(ACTIONS)
        self.observation_space = spaces.Box(0, 1, (ACTIONS,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Show an action."""
        super().reset(seed=seed)
        self.shown, self.taken = int(self.np_random.integers(ACTIONS)), 0
        self._forbid()
        return np.eye(ACTIONS, dtype=np.float32)[self.shown], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Reward the action that was shown."""
        self.taken += 1
        ends = self.taken == STEPS or not self.mask[action]
        reward = float(action == self.shown)
        self._forbid()
        return np.zeros(ACTIONS, np.float32), reward, bool(ends), False, {}

    def action_masks(self) -> np.ndarray:
        """Return the mask of the current state."""
        return self.mask

    def _forbid(self) -> None:
        self.mask = np.zeros(ACTIONS, dtype=bool)
        others = np.delete(np.arange(ACTIONS), self.shown)
        self.mask[self.np_random.choice(others, ALLOWED - 1, replace=False)] = True
        self.mask[self.shown] = True
