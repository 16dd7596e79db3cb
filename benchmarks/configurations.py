"""The configurations to compare: a library, a kind of vector environment and a number of environments."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import envs
from agents import TRPO
from envs.factory import VEC_ENVS

LIBRARIES = {"ours": "agents", "sb3-contrib": "sb3_contrib", "tianshou": "tianshou"}
SB3_CLASSES = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}


@dataclass(frozen=True)
class Configuration:
    """One way to collect or train.

    Attributes:
        library: "ours", "sb3-contrib" or "tianshou".
        vec_env: how the environments are stepped, under the library's own name.
        n_envs: the number of environments.
        threads: torch's threads, in the process with the policy; 0 for the default.
        env: id of the environment.
        rollout: steps between two updates, over all environments.
        settings: the agent's settings, as name=value,name=value.
    """

    library: str
    vec_env: str
    n_envs: int
    threads: int
    env: str
    rollout: int = 2048
    settings: str = ""

    def __str__(self) -> str:
        threads = f", {self.threads} torch thread{'s' * (self.threads > 1)}" if self.threads else ""
        rollout = f", {self.rollout} steps per rollout" if self.rollout != 2048 else ""
        settings = f", {self.settings}" if self.settings else ""
        return f"{self.library}, {self.vec_env} {self.n_envs}{rollout}{settings}{threads}"

    @property
    def installed(self) -> bool:
        """Return whether the packages that the configuration needs are installed."""
        needed = [LIBRARIES[self.library], *(["envpool"] if self.vec_env == "envpool" else [])]
        supported = self.library != "ours" or self.vec_env in VEC_ENVS
        return supported and all(importlib.util.find_spec(package) is not None for package in needed)


def parse_settings(settings: str) -> dict[str, Any]:
    """Return name=value,name=value as a dictionary of YAML values."""
    parts = (part.partition("=") for part in settings.split(",") if part)
    return {name.strip(): yaml.safe_load(value) for name, _, value in parts}


@contextmanager
def sb3_agent(configuration: Configuration, **hyperparameters: Any) -> Iterator[OnPolicyAlgorithm]:
    """Make a TRPO agent of ours or of sb3-contrib with its defaults, on its own environments."""
    algorithm: Any = TRPO
    if configuration.library == "sb3-contrib":
        import sb3_contrib

        algorithm = sb3_contrib.TRPO
    env = _vec_env(configuration)
    try:
        yield algorithm(
            "MlpPolicy",
            env,
            n_steps=max(1, configuration.rollout // configuration.n_envs),
            seed=0,
            device="cpu",
            **{**hyperparameters, **parse_settings(configuration.settings)},
        )
    finally:
        env.close()


def _vec_env(configuration: Configuration) -> VecEnv:
    if configuration.library == "ours":
        return envs.make_vec_env(
            configuration.env, configuration.n_envs, seed=0, vec_env=configuration.vec_env
        )
    # Pass a function, since with an id SB3 enables rendering.
    make = partial(gym.make, configuration.env)
    return sb3_make_vec_env(
        make, configuration.n_envs, seed=0, vec_env_cls=SB3_CLASSES[configuration.vec_env]
    )
