"""The factory of SB3 vector environments, with errors that name the fix."""

import difflib
import importlib
import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from envs.cores import usable_cores
from envs.errors import MissingExtraError, UnknownEnvironmentError
from envs.vector.env_pool import EnvPoolVecEnv
from envs.workers.worker_vec_env import WorkerVecEnv

# (env_id, n_envs, seed=..., env_kwargs=...) -> vector environment
VecEnvBuilder = Callable[..., VecEnv]

# Packages of environments (prefixes of their entry points) and the extras that install them.
_EXTRAS = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d"}
# Seconds that a step of WorkerVecEnv takes beyond the environments' own, measured on two cores: to wake
# the workers, and per environment for its info.
_WAKE, _INFO = 100e-6, 3e-6


def environment_spec(env_id: str) -> EnvSpec:
    """Return an environment's specification in Gymnasium's registry, without building it.

    Args:
        env_id: A registered id with its version, e.g. ``"Hopper-v5"``; Gymnasium's form
            ``"module:Name-v0"`` first imports the module that registers the id.

    Raises:
        UnknownEnvironmentError: If the id is malformed, not registered, or has no version
            although only versions are registered (results of two versions are not comparable, so
            the latest is not chosen silently).
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        nearest = _find_nearest_ids(name)
        fix = (
            f"did you mean {' or '.join(map(repr, nearest))}?"
            if nearest
            else "gymnasium.pprint_registry() lists every id; import the package that registers it."
        )
        raise UnknownEnvironmentError(
            f"expected a registered environment id such as 'CartPole-v1', got {env_id!r}: {fix} ({error})"
        ) from error


def _find_nearest_ids(name: str) -> list[str]:
    """Return the latest versions of the (at most three) environments with the most similar names."""
    latest: dict[str, EnvSpec] = {}
    for spec in gym.registry.values():
        key = _strip_version(spec.id)
        if key not in latest or (spec.version or 0) > (latest[key].version or 0):
            latest[key] = spec
    return [latest[key].id for key in difflib.get_close_matches(_strip_version(name), latest)]


def _strip_version(name: str) -> str:
    """Return a name for comparison: lower case, without version and surrounding blanks."""
    return re.sub(r"[-_ ]*v?\d*$", "", name.strip().lower())


def _make_one(spec: EnvSpec, env_kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """Build one environment in this process.

    The same failure in a worker process would appear as an ``EOFError`` of a pipe.
    """
    try:
        return gym.make(spec, **env_kwargs)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
        extras = [extra for package, extra in _EXTRAS.items() if entry_point.startswith(package)]
        fix = (
            f'pip install -c constraints.txt -e ".[{extras[0]}]"' if extras else "install what is named above"
        )
        raise MissingExtraError(
            f"{spec.id} needs a package that is not installed ({type(error).__name__}: {error}); {fix}"
        ) from error


def _build_with_sb3(
    vec_env_class: type[VecEnv], env_id: str, n_envs: int, *, seed: int | None, env_kwargs: dict[str, Any]
) -> VecEnv:
    """Build a vector environment of single ones, after one environment was built as a check."""
    spec = environment_spec(env_id)
    _make_one(spec, env_kwargs).close()
    # A callable rather than the id, for two reasons: given an id, SB3 sets
    # render_mode="rgb_array", which costs start-up time and causes warnings; and a
    # pickled specification needs no registry, which a new worker process fills only by
    # importing the package that registers it.
    return sb3_make_vec_env(
        partial(gym.make, spec),
        n_envs=n_envs,
        seed=seed,
        env_kwargs=env_kwargs,
        vec_env_cls=vec_env_class,  # type: ignore[arg-type]  # it takes what is constructed alike
    )


def _build_automatically(env_id: str, n_envs: int, *, seed: int | None, env_kwargs: dict[str, Any]) -> VecEnv:
    choice = choose_vec_env(env_id, n_envs, env_kwargs=env_kwargs)
    return VEC_ENVS[choice.vec_env](env_id, n_envs, seed=seed, env_kwargs=env_kwargs)


VEC_ENVS: dict[str, VecEnvBuilder] = {
    "auto": _build_automatically,
    "dummy": partial(_build_with_sb3, DummyVecEnv),
    "envpool": EnvPoolVecEnv,
    "subproc": partial(_build_with_sb3, SubprocVecEnv),
    "workers": partial(_build_with_sb3, WorkerVecEnv),
}


def register_vec_env(name: str, builder: VecEnvBuilder) -> None:
    """Make a vector environment available as ``make_vec_env(..., vec_env=name)``.

    Args:
        name: A new name.
        builder: A class or function, called as ``builder(env_id, n_envs, seed=..., env_kwargs=...)``.
            Environment i is to be seeded with ``seed + i``, and infos need the entries of SB3's ``Monitor``.

    Raises:
        ValueError: If the name is registered already.
    """
    if name in VEC_ENVS:
        raise ValueError(f"vec_env {name!r} is registered already; choose another name")
    VEC_ENVS[name] = builder


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    vec_env: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """Make an SB3 vector environment that counts its episodes as SB3's ``Monitor`` does.

    Args:
        env_id: A registered Gymnasium id, see `environment_spec`.
        n_envs: The number of environments, at least 1.
        seed: Environment i is seeded with ``seed + i`` at its first reset, and so is its
            action space; None seeds from the operating system or NumPy's global state.
        vec_env: ``"dummy"`` steps the environments in this process, ``"workers"`` in one process
            per core, ``"subproc"`` in one process each, all three with bitwise equal results; ``"auto"``
            chooses the faster of the first two, see `choose_vec_env`. ``"envpool"`` is EnvPool's own
            version of the task, see `EnvPoolVecEnv`. `register_vec_env` adds others.
        env_kwargs: Keyword arguments of the environment's constructor, or of
            ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, ...); with EnvPool, of
            ``envpool.make``.

    Returns:
        The vector environment, not yet reset.

    Raises:
        UnknownEnvironmentError: If Gymnasium, or EnvPool, does not know the id; before anything is built.
        MissingExtraError: If the environment's packages are not installed.
        ValueError: If `vec_env` is unknown or `n_envs` is below 1; before anything is built. If
            EnvPool does not know an argument, or has another task by that id.
    """
    if vec_env not in VEC_ENVS:
        nearest = difflib.get_close_matches(vec_env, VEC_ENVS, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise ValueError(
            f"expected vec_env to be one of {sorted(VEC_ENVS)}, got {vec_env!r}{hint}; 'auto' chooses one."
        )
    if n_envs < 1:
        raise ValueError(f"expected n_envs >= 1, got {n_envs}; pass a positive number.")
    return VEC_ENVS[vec_env](env_id, n_envs, seed=seed, env_kwargs=dict(env_kwargs or {}))


@dataclass(frozen=True)
class VecEnvChoice:
    """The choice of ``vec_env="auto"``; ``str`` formats it for messages."""

    vec_env: str
    """``"dummy"`` or ``"workers"``."""
    reason: str
    """In a few words."""

    def __str__(self) -> str:
        return f"{self.vec_env} ({self.reason})"


def choose_vec_env(env_id: str, n_envs: int = 1, *, env_kwargs: dict[str, Any] | None = None) -> VecEnvChoice:
    """Choose between this process and one worker process per core, by timing steps of one environment.

    The two give bitwise equal results, so the choice affects only speed. EnvPool is never chosen, because
    its implementations of the tasks may differ in detail.

    Args:
        env_id: A registered Gymnasium id, see `environment_spec`.
        n_envs: The number of environments.
        env_kwargs: As in `make_vec_env`.

    Raises:
        UnknownEnvironmentError: If the id is not registered.
        MissingExtraError: If the environment's packages are not installed.
    """
    spec = environment_spec(env_id)
    processes = min(len(usable_cores()), n_envs)
    if processes == 1:
        return VecEnvChoice("dummy", "one environment" if n_envs == 1 else "one core")
    env = _make_one(spec, dict(env_kwargs or {}))
    seconds = _time_step(env)
    env.close()
    saved = (n_envs - math.ceil(n_envs / processes)) * seconds
    time_text = f"{seconds * 1e6:.0f} µs per step"
    # Twice the cost, since a wrong guess is expensive if other programs keep the cores busy.
    if saved < 2 * (_WAKE + _INFO * n_envs):
        return VecEnvChoice("dummy", f"{n_envs} environments in this process; {time_text}")
    return VecEnvChoice("workers", f"{n_envs} environments in {processes} processes; {time_text}")


def _time_step(env: gym.Env[Any, Any]) -> float:
    """Return the median time of a step under random actions, without the first step."""
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
