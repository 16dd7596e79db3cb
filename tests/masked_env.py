"""A task that forbids actions at random, and raises an error if a forbidden one is taken."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

EPISODE = 10


def sizes_of(space: spaces.Space) -> list[int]:
    """Return the number of a mask's entries per choice."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [2] * space.n if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()


class MaskedEnv(gym.Env):
    """Reward each choice that equals its target, which the observation shows and the mask always allows.

    Args:
        action_space: Discrete, MultiDiscrete or MultiBinary.
        allowed: the probability that a mask allows a value other than the target.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, action_space: spaces.Space | None = None, allowed: float = 0.4):
        self.action_space = spaces.Discrete(5) if action_space is None else action_space
        self.sizes, self.allowed = sizes_of(self.action_space), allowed
        self.observation_space = spaces.Box(0, 1, (sum(self.sizes),), np.float32)
        self.step_count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Begin again."""
        super().reset(seed=seed)
        self.step_count = 0
        self._draw()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Check that the action is allowed, and go on to the next target."""
        chosen = np.reshape(action - np.asarray(getattr(self.action_space, "start", 0)), -1)
        parts = np.split(self.mask, np.cumsum(self.sizes)[:-1])
        assert all(part[value] for part, value in zip(parts, chosen, strict=True)), f"{action} is forbidden"
        reward = float(np.mean(chosen == self.target))
        self.step_count += 1
        self._draw()
        return self._observation(), reward, self.step_count == EPISODE, False, {}

    def action_masks(self) -> np.ndarray:
        """Return the mask of the current state."""
        return self.mask

    def get_state(self) -> dict[str, Any]:
        """Return what later steps depend on."""
        return {"count": self.step_count, "mask": self.mask, "target": self.target}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.step_count, self.mask, self.target = (state[name] for name in ("count", "mask", "target"))

    def _draw(self) -> None:
        self.target = np.array([self.np_random.integers(size) for size in self.sizes])
        self.mask = self.np_random.random(sum(self.sizes)) < self.allowed
        self.mask[np.cumsum([0, *self.sizes[:-1]]) + self.target] = True

    def _observation(self) -> np.ndarray:
        shown = np.zeros(sum(self.sizes), np.float32)
        shown[np.cumsum([0, *self.sizes[:-1]]) + self.target] = 1
        return shown


class Dictionary(gym.ObservationWrapper):
    """Give the observation a name."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"target": env.observation_space})

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Return a dictionary of one part."""
        return {"target": observation}


SPACES = {
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([2, 4]),
    "multi_binary": spaces.MultiBinary(3),
}
