"""A one-step task whose expected reward under a Gaussian policy is known exactly."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Observation = NDArray[np.float32]


class GaussianBandit(gym.Env[Observation, Observation]):
    """A continuous bandit: one action a (d,) per episode, reward -‖a - target‖².

    The observation is always ones(1). Under the policy N(mean, diag(std²)) the expected
    reward is -‖mean - target‖² - Σ std², so every gradient, step and KL has a closed form.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gym.Env)

    def __init__(self, *, target: ArrayLike = (1.0, -1.0), action_bound: float = 10.0) -> None:
        """Set the target.

        Args:
            target: The best action, (d,).
            action_bound: The action space is [-action_bound, action_bound]^d. The environment does not clip
                actions.

        Raises:
            ValueError: If the target is not a vector inside the bounds.
        """
        self.target: Array = np.array(target, dtype=np.float64)
        inside = np.isfinite(action_bound) and np.all(np.abs(self.target) < action_bound)
        if self.target.ndim != 1 or not inside:
            raise ValueError(
                f"expected a vector target inside the finite bounds ±{action_bound}, "
                f"got {target!r}; widen action_bound or move the target."
            )
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Box(-action_bound, action_bound, self.target.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `options` is not used."""
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Return the reward -‖action - target‖² and terminate the episode."""
        error = np.asarray(action, dtype=np.float64) - self.target
        return np.ones(1, dtype=np.float32), -float(error @ error), True, False, {}

    @property
    def optimal_reward(self) -> float:
        """The supremum of the expected reward, approached with mean = target as std goes to 0."""
        return 0.0

    def expected_reward(self, mean: ArrayLike, std: ArrayLike) -> float:
        """Return E[reward] under N(mean, diag(std²)) = -‖mean - target‖² - Σ std².

        Args:
            mean: (d,), or a scalar for all dimensions.
            std: (d,) or a scalar, at least 0.

        Raises:
            ValueError: If a shape is wrong or a standard deviation is negative.
        """
        error, std = self._error_and_std(mean, std)
        return -float(error @ error + std @ std)

    def expected_reward_gradient(self, mean: ArrayLike, std: ArrayLike) -> tuple[Array, Array]:
        """Return the gradient of `expected_reward` with respect to (mean, log std): two vectors (d,).

        They are -2(mean - target) and -2 std².

        Raises:
            ValueError: If a shape is wrong or a standard deviation is negative.
        """
        error, std = self._error_and_std(mean, std)
        return -2 * error, -2 * std**2

    def _error_and_std(self, mean: ArrayLike, std: ArrayLike) -> tuple[Array, Array]:
        mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        shape = self.target.shape
        if mean.shape not in ((), shape) or std.shape not in ((), shape) or np.any(std < 0):
            raise ValueError(
                f"expected mean and std >= 0 of shape {shape} or scalar, got mean {mean.shape} "
                f"and std {std.tolist()}; pass the policy's parameters for one state."
            )
        return mean - self.target, np.broadcast_to(std, shape)
