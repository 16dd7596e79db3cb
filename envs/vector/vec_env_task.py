"""A vector environment of one environment as a Gymnasium environment, e.g. to evaluate an agent in it."""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from envs.masks import METHOD


class VecEnvTask(gym.Env[Any, Any]):
    """The only environment of a vector environment that resets itself; it has an end where that has one."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as gym.Env)

    def __init__(self, vec_env: VecEnv) -> None:
        """Use the spaces and the render mode of the vector environment."""
        self._vec_env = vec_env
        self.observation_space = vec_env.observation_space
        self.action_space = vec_env.action_space
        self.render_mode = vec_env.render_mode

    def __getattr__(self, name: str) -> Any:
        if name == METHOD and self._vec_env.has_attr(METHOD):
            return lambda: self._vec_env.env_method(METHOD)[0]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

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
        """Close the vector environment."""
        self._vec_env.close()
