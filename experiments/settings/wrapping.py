"""The wrappers and callbacks that the settings of a run name.

A run folder may be untrusted, so a name in it imports nothing: it must be in a module that the user named, or
be one of the wrappers of Gymnasium and SB3 that write no files.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from envs.user_modules import is_named
from experiments.settings.class_list import entries, is_library, module_of
from experiments.settings.run_settings import RunSettings

# {class: what to use instead}. The first four write files, whose paths an untrusted folder could choose.
UNSUITABLE: dict[type, str] = {
    gym.wrappers.RecordVideo: "npg evaluate --video records one",
    VecVideoRecorder: "npg evaluate --video records one",
    Monitor: "every environment has one",
    VecMonitor: "every environment has a Monitor",
    VecNormalize: "use normalize: true",
    VecFrameStack: "use frame_stack",
}

BASES = {"env_wrapper": gym.Wrapper, "vec_env_wrapper": VecEnvWrapper, "callback": BaseCallback}


def find(name: str, setting: str) -> Callable[..., Any]:
    """Return the class of "module.Class".

    Raises:
        ValueError: the user did not name the module, it has no such class, or the class is unsuitable.
    """
    base: type = BASES[setting]
    module, attribute = module_of(name), name[len(module_of(name)) + 1 :]
    if not is_named(module) and not (is_library(module) and base is not BaseCallback):
        raise ValueError(f"{setting} names {name}; if you trust this module, add --import {module}")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)  # of a library, or imported already
    except (ImportError, AttributeError) as error:
        near = difflib.get_close_matches(attribute, getattr(sys.modules.get(module), "__dict__", {}), n=1)
        raise ValueError(f"{setting}: {error}" + (f"; did you mean {near[0]!r}?" if near else "")) from error
    if isinstance(found, type):
        unsuitable = next((each for each in UNSUITABLE if issubclass(found, each)), None)
        if unsuitable is not None:
            raise ValueError(f"{setting}: {name} is of no use here; {UNSUITABLE[unsuitable]}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{setting}: {name} is no class derived from {base.__module__}.{base.__name__}")
    return found  # type: ignore[no-any-return]


def env_wrapper(settings: RunSettings) -> Callable[[gym.Env], gym.Env] | None:
    """Return a function that applies `env_wrapper` to an environment, which can be sent to a worker; or None.

    Raises:
        ValueError: see `find`.
    """
    if not settings.env_wrapper:
        return None
    wrappers = [(find(name, "env_wrapper"), kwargs) for name, kwargs in entries(settings.env_wrapper)]
    return partial(apply, wrappers=wrappers)


def apply(env: Any, wrappers: list[tuple[Callable[..., Any], Mapping[str, Any]]]) -> Any:
    """Wrap in each of these in turn; the first one is the innermost."""
    for wrapper, kwargs in wrappers:
        env = wrapper(env, **kwargs)
    return env


def wrapped(env: VecEnv, settings: RunSettings) -> VecEnv:
    """Return a vector environment within the run's `frame_stack` and `vec_env_wrapper`.

    A `VecNormalize` comes around them, so that there is one moment per stacked value, and the policy and its
    normaliser have the same inputs.

    Raises:
        ValueError: see `find`.
    """
    wrappers: list[tuple[Callable[..., Any], Mapping[str, Any]]] = [
        (find(name, "vec_env_wrapper"), kwargs) for name, kwargs in entries(settings.vec_env_wrapper)
    ]
    if settings.frame_stack > 1:
        wrappers.append((VecFrameStack, {"n_stack": settings.frame_stack}))
    return apply(env, wrappers)  # type: ignore[no-any-return]


def make_callbacks(settings: RunSettings) -> list[BaseCallback]:
    """Return the callbacks of training.

    Raises:
        ValueError: see `find`.
    """
    return [find(name, "callback")(**kwargs) for name, kwargs in entries(settings.callback)]


def check_names(settings: RunSettings) -> None:
    """Check that all classes that the settings name can be found.

    Raises:
        ValueError: see `find`.
    """
    for setting in BASES:
        for name, _ in entries(getattr(settings, setting)):
            find(name, setting)
