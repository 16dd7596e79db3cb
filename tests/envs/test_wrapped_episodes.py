"""Episodes that a wrapper around Monitor ends are recorded, with the environment's own rewards."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from episodes import Episodes
from stable_baselines3.common.monitor import load_results

from envs import make_vec_env


class Half(gym.Wrapper):
    """Ends every episode after two steps, and doubles rewards; it may call that a life."""

    def __init__(self, env: gym.Env, lives: bool = False):
        super().__init__(env)
        if lives:
            self.was_real_done = False
        self._steps = 0

    def reset(self, **kwargs: Any) -> Any:
        """Begin again."""
        self._steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """End after two steps."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return observation, 2 * float(reward), terminated, truncated or self._steps == 2, info


def play(rewards: list[float], steps: int, **options: Any) -> list[dict[str, float] | None]:
    """Return what is recorded at each step of one environment."""
    env = make_vec_env(lambda: Episodes(rewards), 1, wrapper_class=Half, vec_env="dummy", **options)
    env.reset()
    return [env.step([0])[3][0].get("episode") for _ in range(steps)]


def test_an_end_by_a_wrapper_is_recorded(tmp_path: Path) -> None:
    """Once, with return and length so far, in the infos and in Monitor's file."""
    found = play([1.0, 2.0, 4.0], 4, monitor_dir=str(tmp_path))
    assert [each and (each["r"], each["l"]) for each in found] == [None, (3.0, 2), None, (3.0, 2)]
    assert list(load_results(str(tmp_path))["r"]) == [3.0, 3.0]


def test_an_end_of_the_environment_is_recorded_by_monitor_alone() -> None:
    """The wrapper sees it, too."""
    found = play([1.0, 2.0], 2)
    assert found[0] is None and found[1] is not None and found[1]["r"] == 3.0


def test_a_life_is_no_episode() -> None:
    """SB3's EpisodicLifeEnv ends an episode at every life."""
    assert play([1.0, 2.0, 4.0], 4, wrapper_kwargs={"lives": True}) == [None] * 4


@pytest.mark.parametrize("kind", ["dummy", "workers"])
def test_wrappers_reach_every_kind(kind: str) -> None:
    """Worker processes get the class, too."""
    limit = {"wrapper_class": gym.wrappers.TimeLimit, "wrapper_kwargs": {"max_episode_steps": 2}}
    env = make_vec_env(lambda: Episodes([1.0, 2.0, 4.0]), 2, vec_env=kind, **limit)
    env.reset()
    env.step([0, 0])
    assert [info["episode"]["r"] for info in env.step([0, 0])[3]] == [3.0, 3.0]
    env.close()
