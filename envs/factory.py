"""The factory of SB3 vector environments, with errors that name the fix."""

import difflib
import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

# spec, n_envs, seed, env_kwargs -> vector environment
VecEnvBuilder = Callable[[EnvSpec, int, int | None, dict[str, Any]], VecEnv]

# Packages of environments (a prefix of their entry points) and the extra that installs them.
_EXTRAS = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d"}


class UnknownEnvironmentError(ValueError):
    """Raised when an environment id is not registered; the message has the nearest ids."""


class MissingExtraError(ImportError):
    """Raised when an environment needs a package that is absent; the message has the fix."""


def environment_spec(env_id: str) -> EnvSpec:
    """Looks an environment up in Gymnasium's registry, without building it.

    Args:
        env_id: A registered id with its version, such as ``"Hopper-v5"``; Gymnasium's form
            ``"module:Name-v0"`` imports the module that registers the id first.

    Returns:
        The registered specification.

    Raises:
        UnknownEnvironmentError: If the id is malformed, not registered, or has no version
            where only versions are registered (results of two versions do not compare, so
            the latest is not taken silently).
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        nearest = _nearest_ids(name)
        fix = (
            f"did you mean {' or '.join(repr(near) for near in nearest)}?"
            if nearest
            else "gymnasium.pprint_registry() lists every id; import the package that registers it."
        )
        raise UnknownEnvironmentError(
            f"expected a registered environment id such as 'CartPole-v1', got {env_id!r}: {fix} ({error})"
        ) from error


def _nearest_ids(name: str) -> list[str]:
    """Returns the latest version of the (at most three) environments nearest in name."""
    latest: dict[str, EnvSpec] = {}
    for spec in gym.registry.values():
        key = _unversioned(spec.id)
        if key not in latest or (spec.version or 0) > (latest[key].version or 0):
            latest[key] = spec
    return [latest[key].id for key in difflib.get_close_matches(_unversioned(name), latest)]


def _unversioned(name: str) -> str:
    """Returns a name for comparison: lower case, without version and surrounding blanks."""
    return re.sub(r"[-_ ]*v?\d*$", "", name.strip().lower())


def _probe(spec: EnvSpec, env_kwargs: dict[str, Any]) -> None:
    """Builds one environment in this process and closes it.

    In a worker process the same failure would reach the user as an ``EOFError`` of a pipe.
    """
    try:
        gym.make(spec, **env_kwargs).close()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
        fix = next(
            (
                f'pip install -c constraints.txt -e ".[{extra}]"'
                for package, extra in _EXTRAS.items()
                if entry_point.startswith(package)
            ),
            "install what the message names",
        )
        raise MissingExtraError(
            f"expected the packages that {spec.id} needs, got {type(error).__name__}: "
            f"{str(error).rstrip('.')}; fix: {fix}"
        ) from error


def _from_sb3(
    vec_env_class: type[DummyVecEnv] | type[SubprocVecEnv],
    spec: EnvSpec,
    n_envs: int,
    seed: int | None,
    env_kwargs: dict[str, Any],
) -> VecEnv:
    """Builds one of SB3's vector environments, after a probe."""
    _probe(spec, env_kwargs)
    # A callable rather than the id, for two reasons: given an id, SB3 sets
    # render_mode="rgb_array", which training pays for in start-up time and warnings; and a
    # pickled specification needs no registry, which a fresh worker process fills only by
    # importing the package that registers it.
    return sb3_make_vec_env(
        partial(gym.make, spec),
        n_envs=n_envs,
        seed=seed,
        env_kwargs=env_kwargs,
        vec_env_cls=vec_env_class,
    )


_BUILDERS: dict[str, VecEnvBuilder] = {
    "dummy": partial(_from_sb3, DummyVecEnv),
    "subproc": partial(_from_sb3, SubprocVecEnv),
}
# One process: on two cores SubprocVecEnv was measured to be slower on MuJoCo tasks.
_BUILDERS["auto"] = _BUILDERS["dummy"]


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    vec_env: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """Makes an SB3 vector environment, with a ``Monitor`` around each environment.

    Args:
        env_id: A registered Gymnasium id, see `environment_spec`.
        n_envs: The number of environments, at least 1.
        seed: Environment i is seeded with ``seed + i`` at its first reset, and so is its
            action space; None seeds from the operating system or NumPy's global state.
        vec_env: ``"dummy"`` steps the environments in this process, ``"subproc"`` in one
            process each, ``"auto"`` chooses.
        env_kwargs: Keyword arguments of the environment's constructor, or of
            ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, ...).

    Returns:
        The vector environment, not yet reset.

    Raises:
        UnknownEnvironmentError: If the id is not registered; before anything is built.
        MissingExtraError: If the environment's packages are not installed.
        ValueError: If `vec_env` is unknown or `n_envs` is below 1; before anything is built.
    """
    if vec_env not in _BUILDERS:
        nearest = difflib.get_close_matches(vec_env, _BUILDERS, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise ValueError(
            f"expected vec_env to be one of {sorted(_BUILDERS)}, got {vec_env!r}{hint}; "
            "leave it at 'auto' to have one chosen."
        )
    if n_envs < 1:
        raise ValueError(f"expected n_envs >= 1, got {n_envs}; pass a positive number.")
    return _BUILDERS[vec_env](environment_spec(env_id), n_envs, seed, dict(env_kwargs or {}))
