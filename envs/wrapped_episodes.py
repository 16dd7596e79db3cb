"""Check what a user's wrappers return, and record the episodes that they end, e.g. a time limit."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor

from envs.checked_env import CheckedEnv

# An attribute of SB3's EpisodicLifeEnv, whose ends are those of a life; Monitor sees those of episodes.
LIVES = "was_real_done"


class WrappedEpisodes(CheckedEnv):
    """The outermost wrapper: check results as `CheckedEnv` does, and record episodes that a wrapper ends.

    ``Monitor`` is inside of a user's wrappers, so that it records the environment's own rewards, and does not
    see the end. Later steps depend on nothing that this wrapper stores, so states do not include it.

    Args:
        env: A ``Monitor`` within a user's wrappers.
        transfer: See `CheckedEnv`.
    """

    def __init__(self, env: gym.Env[Any, Any], transfer: Callable[[Any], Any]) -> None:
        super().__init__(env, transfer)
        inner, self._wrappers = env, []
        while isinstance(inner, gym.Wrapper) and not isinstance(inner, Monitor):
            self._wrappers.append(f"{type(inner).__module__}.{type(inner).__qualname__}")
            inner = inner.env
        self._monitor: Any = inner if isinstance(inner, Monitor) and not env.has_wrapper_attr(LIVES) else None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and add the info ``"episode"`` if it is missing at an end.

        Raises:
            InvalidResultError: If a wrapper returns something invalid.
        """
        observation, reward, terminated, truncated, info = super().step(action)
        monitor = self._monitor
        if (terminated or truncated) and "episode" not in info and monitor is not None:
            steps, seconds = len(monitor.rewards), time.time() - monitor.t_start
            episode = {"r": round(sum(monitor.rewards), 6), "l": steps, "t": round(seconds, 6)}
            for name, history in (("r", "returns"), ("l", "lengths"), ("t", "times")):
                getattr(monitor, f"episode_{history}").append(episode[name])
            episode |= {key: info[key] for key in monitor.info_keywords} | monitor.current_reset_info
            if monitor.results_writer is not None:
                monitor.results_writer.write_row(episode)
            info["episode"] = episode
        return observation, reward, terminated, truncated, info

    def set_index_for_messages(self, index: int) -> None:
        """Set the environment's index in the vector environment, also for the inner checks."""
        super().set_index_for_messages(index)
        self.env.get_wrapper_attr("set_index_for_messages")(index)

    def _environment(self) -> str:
        return f"{', '.join(self._wrappers)} around {super()._environment()}"

    def _clean(self, method: str, info: Any) -> dict[str, Any]:
        episode = {"episode": info["episode"]} if isinstance(info, dict) and "episode" in info else {}
        return super()._clean(method, info) | episode
