"""A single EnvPool environment as a Gymnasium environment, e.g. to evaluate tasks that only EnvPool has."""

from typing import Any

import gymnasium as gym
import numpy as np

from envs.vector.env_pool import EnvPoolVecEnv


class EnvPoolTask(gym.Env[Any, Any]):
    """A task of EnvPool; a reset with a seed rebuilds it, since EnvPool takes seeds only when it is built."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as gym.Env)

    def __init__(self, task: str, render_mode: str | None = None, **kwargs: Any) -> None:
        """Build the task.

        Args:
            task: One of ``envpool.list_all_envs()``.
            render_mode: None or ``"rgb_array"``.
            kwargs: EnvPool's options for the task.
        """
        options = {"render_mode": render_mode, **kwargs} if render_mode else kwargs
        self._vec_env = EnvPoolVecEnv(task, 1, env_kwargs=options)
        self.observation_space = self._vec_env.observation_space
        self.action_space = self._vec_env.action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `options` is not used."""
        super().reset(seed=seed)
        if seed is not None:
            self._vec_env.seed(seed)
        observations: Any = self._vec_env.reset()
        return observations[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make one step."""
        observations: Any
        observations, rewards, dones, infos = self._vec_env.step(np.array([action]))
        done, truncated = bool(dones[0]), bool(infos[0]["TimeLimit.truncated"])
        observation = infos[0]["terminal_observation"] if done else observations[0]
        return observation, float(rewards[0]), done and not truncated, truncated, {}

    def render(self) -> Any:
        """Return a frame (height, width, 3)."""
        return self._vec_env.get_images()[0]

    def close(self) -> None:
        """End EnvPool's thread."""
        self._vec_env.close()
