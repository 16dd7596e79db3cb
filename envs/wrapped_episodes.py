"""Record episodes that a wrapper ends, e.g. a time limit around ``Monitor``."""

import time
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor

# An attribute of SB3's EpisodicLifeEnv, whose ends are those of a life; Monitor sees those of episodes.
LIVES = "was_real_done"


class WrappedEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper: if one within it ends an episode, record the episode as ``Monitor`` would.

    ``Monitor`` is inside of a user's wrappers, so that it records the environment's own rewards, and does not
    see the end. Later steps depend on nothing that this wrapper stores, so states do not include it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        inner = env
        while isinstance(inner, gym.Wrapper) and not isinstance(inner, Monitor):
            inner = inner.env
        self._monitor: Any = inner if isinstance(inner, Monitor) and not env.has_wrapper_attr(LIVES) else None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and add the info ``"episode"`` if it is missing at an end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
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
