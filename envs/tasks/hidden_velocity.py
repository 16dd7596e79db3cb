"""CartPole without its velocities: a task that needs memory."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.typing import NDArray

SEEN = [0, 2]  # positions among CartPole's position, velocity, angle and angular velocity


class CartPoleHiddenVelocity(CartPoleEnv):
    """CartPole whose observations are the position of the cart and the angle of the pole only.

    A policy has to infer the velocities from successive observations; without memory it balances the pole for
    about 50 steps.

    Args:
        kwargs: arguments of Gymnasium's CartPole.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Make CartPole, with fewer observations."""
        super().__init__(**kwargs)
        full: Any = self.observation_space
        self.observation_space = spaces.Box(full.low[SEEN], full.high[SEEN], dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        observation, info = super().reset(seed=seed, options=options)
        return observation[SEEN], info

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push the cart."""
        observation, reward, *rest = super().step(action)
        return observation[SEEN], float(reward), *rest  # type: ignore[return-value]
