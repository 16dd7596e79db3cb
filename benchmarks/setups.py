"""The set-ups that compete: a library, its environments and their number."""

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
class Setup:
    """One way to collect or train.

    Attributes:
        library: "ours", "sb3-contrib" or "tianshou".
        vec_env: how the environments are stepped, in the library's own words.
        n_envs: how many.
        threads: of torch, in the process with the policy; 0 leaves the default.
        env: id of the environment.
        rollout: steps between two updates, all environments together.
        settings: of the agent, name=value,name=value.
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
        rollout = f", {self.rollout} a rollout" if self.rollout != 2048 else ""
        settings = f", {self.settings}" if self.settings else ""
        return f"{self.library}, {self.vec_env} {self.n_envs}{rollout}{settings}{threads}"

    @property
    def installed(self) -> bool:
        """Return whether everything it needs is here."""
        needed = [LIBRARIES[self.library], *(["envpool"] if self.vec_env == "envpool" else [])]
        known = self.library != "ours" or self.vec_env in VEC_ENVS
        return known and all(importlib.util.find_spec(package) is not None for package in needed)


def parsed(settings: str) -> dict[str, Any]:
    """Return name=value,name=value as a dictionary of YAML values."""
    parts = (part.partition("=") for part in settings.split(",") if part)
    return {name.strip(): yaml.safe_load(value) for name, _, value in parts}


@contextmanager
def sb3_agent(setup: Setup, **hyperparameters: Any) -> Iterator[OnPolicyAlgorithm]:
    """Make a TRPO agent of ours or of sb3-contrib with its defaults, on its own environments."""
    algorithm: Any = TRPO
    if setup.library == "sb3-contrib":
        import sb3_contrib

        algorithm = sb3_contrib.TRPO
    env = _vec_env(setup)
    try:
        yield algorithm(
            "MlpPolicy",
            env,
            n_steps=max(1, setup.rollout // setup.n_envs),
            seed=0,
            device="cpu",
            **{**hyperparameters, **parsed(setup.settings)},
        )
    finally:
        env.close()


def _vec_env(setup: Setup) -> VecEnv:
    if setup.library == "ours":
        return envs.make_vec_env(setup.env, setup.n_envs, seed=0, vec_env=setup.vec_env)
    # A callable, since with an id SB3 asks for rendering too.
    make = partial(gym.make, setup.env)
    return sb3_make_vec_env(make, setup.n_envs, seed=0, vec_env_cls=SB3_CLASSES[setup.vec_env])
