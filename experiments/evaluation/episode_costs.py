"""Sum what an environment reports as costs over its episodes."""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class EpisodeCosts(gym.Wrapper[Any, Any, Any, Any]):
    """Sum info["costs"], or info["cost"], over every episode; environments without costs have sums of None.

    Args:
        env: any environment.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self._sums: list[np.ndarray | None] = []
        self._current: np.ndarray | None = None
        self._running = False

    def get_episode_costs(self) -> list[np.ndarray | None]:
        """Return the sums of the episodes so far, one array of m costs each."""
        return self._sums

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode; one that has not ended counts, too, since a wrapper has ended it."""
        if self._running:
            self._end()
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Step, and add the costs."""
        result = self.env.step(action)
        _, _, terminated, truncated, info = result
        costs = info.get("costs", info.get("cost")) if isinstance(info, dict) else None
        self._current = _added(self._current if self._running else np.zeros(1), costs)
        self._running = True
        if terminated or truncated:
            self._end()
        return result

    def _end(self) -> None:
        self._sums.append(self._current)
        self._running = False


def _added(total: np.ndarray | None, costs: Any) -> np.ndarray | None:
    """Return a sum of costs with those of another step; None if it has none, or if they are no numbers."""
    if total is None or costs is None:
        return None
    try:
        return total + np.asarray(costs, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None


def read_costs(env: VecEnv, episodes: list[tuple[int, int]]) -> np.ndarray | None:
    """Return the sums of costs of episodes, (episodes, m), or None if there are none.

    Args:
        env: environments that have the wrapper `EpisodeCosts`.
        episodes: each one's environment, and its number among the episodes of that environment.
    """
    per_env = env.env_method("get_episode_costs")
    if any(len(per_env[i]) <= j for i, j in episodes):
        return None
    found = [per_env[i][j] for i, j in episodes]
    if any(costs is None or not np.isfinite(costs).all() for costs in found):
        return None
    return np.stack(found) if len({len(costs) for costs in found}) == 1 else None
