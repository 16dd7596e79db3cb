"""Choose between this process and worker processes by timing the steps of one environment."""

import copy
import math
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from envs.checked_env import CheckedEnv
from envs.cores import usable_cores
from envs.masks import AllowedActions
from envs.single_env import EnvId, env_pool_spec, make_function, make_one

# Seconds that a step of WorkerVecEnv adds to the environments' own time, measured on two cores: to wake the
# workers, and per environment for its info.
_WAKE, _INFO = 100e-6, 3e-6


@dataclass(frozen=True)
class VecEnvChoice:
    """The choice of ``vec_env="auto"``; ``str`` formats it for messages."""

    vec_env: str
    """``"dummy"``, ``"workers"`` or ``"envpool"``."""
    reason: str
    """Why it was chosen, in a few words."""

    def __str__(self) -> str:
        return f"{self.vec_env} ({self.reason})"


def choose_vec_env(
    env_id: EnvId, n_envs: int = 1, *, env_kwargs: dict[str, Any] | None = None
) -> VecEnvChoice:
    """Choose between this process and one worker process per core by timing the steps of one environment.

    The two give bitwise equal results, so the choice affects only speed. EnvPool is chosen only for tasks
    that Gymnasium does not have, because its versions of other tasks may differ in details.

    Args:
        env_id: As in `make_vec_env`.
        n_envs: The number of environments.
        env_kwargs: As in `make_vec_env`.

    Raises:
        UnknownEnvironmentError: If the id is not registered.
        MissingExtraError: If the environment's packages are not installed.
        ValueError: If its observation space is not supported.
    """
    if isinstance(env_id, str) and env_pool_spec(env_id) is not None:
        return VecEnvChoice("envpool", "only EnvPool has this task")
    make = make_function(env_id, dict(env_kwargs or {}))
    if not hasattr(os, "fork"):
        return VecEnvChoice("dummy", "workers need fork, which this system lacks")
    processes = min(len(usable_cores()), n_envs)
    if processes == 1:
        return VecEnvChoice("dummy", "one environment" if n_envs == 1 else "one core")
    env = AllowedActions(CheckedEnv(make_one(make), copy.deepcopy))  # wrapped as in training
    seconds = _time_step(env)
    env.close()
    saved = (n_envs - math.ceil(n_envs / processes)) * seconds
    time_text = f"{seconds * 1e6:.0f} µs per step"
    # Require twice the cost, since workers are slow if other programs keep the cores busy.
    if saved < 2 * (_WAKE + _INFO * n_envs):
        return VecEnvChoice("dummy", f"{n_envs} environments in this process; {time_text}")
    return VecEnvChoice("workers", f"{n_envs} environments in {processes} processes; {time_text}")


def _time_step(env: gym.Env[Any, Any]) -> float:
    """Return the median seconds per step with random actions, without the first step."""
    env.reset(seed=0)
    env.action_space.seed(0)
    times: list[float] = []
    while len(times) < 30 and sum(times) < 0.2:
        action = env.action_space.sample()
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        times.append(time.perf_counter() - start)
        if terminated or truncated:
            env.reset()
    return statistics.median(times[1:] or times)
