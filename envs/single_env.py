"""Find single environments by id, build and check them; error messages say how to fix the problem."""

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from envs.atari import register_atari
from envs.errors import MissingExtraError, UnknownEnvironmentError
from envs.extras import install_command
from envs.user_modules import import_user_module

EnvId = str | Callable[..., gym.Env[Any, Any]]

# {prefix of environments' entry points: the extra that installs their packages}
_EXTRAS = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d"}
_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


def environment_spec(env_id: str) -> EnvSpec:
    """Return an environment's specification in Gymnasium's registry, without building it.

    If only EnvPool has the task, the specification builds an `EnvPoolTask`.

    Args:
        env_id: A registered id with its version, e.g. ``"Hopper-v5"``; Gymnasium's form
            ``"module:Name-v0"`` first imports the module that registers the id.

    Raises:
        UnknownEnvironmentError: If the id is malformed, not registered, or lacks the version that the
            registered ids have (results of two versions are not comparable, so the latest is not chosen
            silently).
        MissingExtraError: If the module imports a package that is not installed, or the id is an Atari game
            and ale-py is not installed.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_user_module(module)
        register_atari(name)
        return env_pool_spec(name) or gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        nearest = _find_nearest_ids(name)
        fix = (
            f"did you mean {' or '.join(map(repr, nearest))}?"
            if nearest
            else "gymnasium.pprint_registry() lists every id; import the package that registers it."
        )
        if isinstance(error, ModuleNotFoundError):
            fix = f"run the command in the folder of {module.split('.')[0]}, install it, or correct its name"
        elif not module and "." in name and "/" not in name:
            fix = f"write module:Name-v0, e.g. '{name.rpartition('.')[0]}:{name.rpartition('.')[2]}-v0'"
        elif isinstance(getattr(sys.modules.get(module), name, None), type):
            entry_point = f"entry_point={f'{module}:{name}'!r}, max_episode_steps=500"
            fix = f"{name} is a class; add to {module}: gymnasium.register('{name}-v0', {entry_point})"
        elif importlib.util.find_spec("envpool") is None:
            fix += f" Tasks of EnvPool need the extra envpool: {install_command('envpool')}."
        raise UnknownEnvironmentError(
            f"expected a registered environment id such as 'CartPole-v1', got {env_id!r}: {fix} ({error})"
        ) from error


def env_pool_spec(name: str) -> EnvSpec | None:
    """Return the specification of a task that EnvPool has, but Gymnasium has in no version; else None."""
    if _strip_version(name) in map(_strip_version, gym.registry):
        return None
    try:
        tasks = importlib.import_module("envpool").list_all_envs()
    except ImportError:
        return None
    if name not in tasks:
        return None
    entry_point = "envs.vector.env_pool_task:EnvPoolTask"
    return EnvSpec(name, entry_point, kwargs={"task": name}, disable_env_checker=True)


def _find_nearest_ids(name: str) -> list[str]:
    """Return the latest versions of at most three environments with similar names."""
    latest: dict[str, EnvSpec] = {}
    for spec in gym.registry.values():
        key = _strip_version(spec.id)
        if key not in latest or (spec.version or 0) > (latest[key].version or 0):
            latest[key] = spec
    return [latest[key].id for key in difflib.get_close_matches(_strip_version(name), latest)]


def _strip_version(name: str) -> str:
    """Return a name for comparison: lower case, without version and surrounding blanks."""
    return re.sub(r"[-_ ]*v?\d*$", "", name.strip().lower())


def make_function(env_id: EnvId, env_kwargs: dict[str, Any]) -> Callable[[], gym.Env[Any, Any]]:
    """Return a function that builds one environment.

    Args:
        env_id: A registered id (see `environment_spec`), or a class or function that returns an environment.
        env_kwargs: Keyword arguments of ``gymnasium.make``, or of the class or function.
    """
    if not isinstance(env_id, str):
        return partial(env_id, **env_kwargs)
    # A specification, unlike an id, works in a new worker process in which nothing has registered the id.
    return partial(gym.make, environment_spec(env_id), **env_kwargs)


def make_one(make: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """Build one environment in this process and check its spaces.

    Args:
        make: The function returned by `make_function`.

    Raises:
        MissingExtraError: If a package is missing; in a worker, this would only show as an ``EOFError``.
        ValueError: If its constructor does not take the arguments; see also `check_spaces`.
    """
    spec = make.args[0] if isinstance(make, partial) and make.args else None
    try:
        env = _patch_env(make())
    except SystemExit as error:  # would end this program without a message
        name = spec.id if isinstance(spec, EnvSpec) else make
        raise ValueError(
            f"{name} called sys.exit({error.code!r}) when it was made; raise an error"
        ) from error
    except TypeError as error:
        if (unknown := _find_unknown_argument(make)) is not None:
            raise ValueError(unknown) from error
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        if not isinstance(spec, EnvSpec):
            raise
        entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
        extras = [extra for package, extra in _EXTRAS.items() if entry_point.startswith(package)]
        fix = install_command(extras[0]) if extras else "install what is named above"
        if newer := [each for each in _find_nearest_ids(spec.id)[:1] if each != spec.id and not extras]:
            fix += f", or use {newer[0]!r}"
        raise MissingExtraError(
            f"{spec.id} needs a package that is not installed ({type(error).__name__}: {error}); {fix}"
        ) from error
    check_spaces(env)
    return env


def _find_unknown_argument(make: Callable[[], gym.Env[Any, Any]]) -> str | None:
    """Return a message if `make_function` was given an argument that the environment does not take."""
    if not isinstance(make, partial):
        return None
    spec = make.args[0] if make.args else None
    creator: Any = make.func
    name = getattr(creator, "__name__", str(creator))
    if isinstance(spec, EnvSpec):
        entry_point, name = spec.entry_point, spec.id
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    parameters = inspect.signature(creator).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    known = [*parameters, *(inspect.signature(gym.make).parameters if isinstance(spec, EnvSpec) else ())]
    for argument in make.keywords:
        if argument not in known:
            nearest = difflib.get_close_matches(argument, known, n=1)
            hint = (
                f"did you mean {nearest[0]!r}?" if nearest else f"it takes {', '.join(parameters) or 'none'}"
            )
            return f"{name} takes no argument {argument!r} (env_kwargs); {hint}"
    return None


def check_spaces(env: gym.Env[Any, Any]) -> None:
    """Check that vector environments support an environment's spaces.

    Raises:
        ValueError: If a space is missing, or observations are not arrays of a fixed shape, or dicts or tuples
            of such arrays without further nesting.
    """
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), spaces.Space):
            raise ValueError(f"{env.unwrapped} has no {name}: set it to a gymnasium.spaces.Space in __init__")
    space = env.observation_space
    parts = {"observation_space": space}
    if isinstance(space, spaces.Dict):
        parts = {f"observation_space[{key!r}]": part for key, part in space.items()}
    elif isinstance(space, spaces.Tuple):
        parts = {f"observation_space[{i}]": part for i, part in enumerate(space)}
    for name, part in parts.items():
        if not isinstance(part, _ARRAYS):
            raise ValueError(
                f"{name} of {env.unwrapped} is {part}, which vector environments do not support; use a Box, "
                "Discrete, MultiBinary or MultiDiscrete, or one Dict or Tuple of them, e.g. by "
                "gymnasium.wrappers.FlattenObservation or TransformObservation"
            )
    if not parts:
        raise ValueError(f"observation_space of {env.unwrapped} is empty; give it at least one part")
