"""The full state of a vector environment, to go on from later to the same bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from envs.state.environment_state import (
    State,
    StateUnavailableError,
    class_name,
    offers_state,
    restore_state,
    take_state,
)
from envs.state.generator_state import restore_spaces, take_spaces
from envs.state.plain_data import Plain, from_plain, to_plain
from envs.workers.worker_pool import check_unbound
from envs.workers.worker_vec_env import WorkerVecEnv


def take_vec_state(vec_env: VecEnv) -> State:
    """Returns all that the next steps and resets of a vector environment depend on, as plain data.

    Known are ``DummyVecEnv``, `WorkerVecEnv`, and SB3's wrappers except ``VecVideoRecorder``; other classes
    can give their own state as environments can, see `take_state`. For environments that draw from Python's
    or NumPy's global generators, those of worker processes are kept too; this process's are the
    caller's to keep. ``reset_infos`` are not kept.

    Args:
        vec_env: Between two steps.

    Returns:
        Strings, ints, floats, bools, None and arrays of numbers, in dicts and lists.

    Raises:
        StateUnavailableError: If an environment or wrapper, or the vector environment itself, is not
            known and has no such methods. Nothing is changed then.
    """
    wrappers = []
    while isinstance(vec_env, VecEnvWrapper):
        wrappers.append({"class": class_name(vec_env), "kept": take_wrapper(vec_env)})
        vec_env = vec_env.venv
    spaces = (vec_env.action_space, vec_env.observation_space)
    try:
        return {
            "wrappers": wrappers,
            "n_envs": vec_env.num_envs,
            "kept": _take_core(vec_env),
            "seeds": to_plain(list(vec_env._seeds), "seeds"),
            "options": to_plain(list(vec_env._options), "options"),
            "spaces": take_spaces(spaces),
        }
    except TypeError as error:
        raise StateUnavailableError(f"expected plain state from {class_name(vec_env)}: {error}") from error


def restore_vec_state(vec_env: VecEnv, state: State) -> None:
    """Puts a vector environment, a fresh one say, into a state of `take_vec_state`.

    It need not have been reset, and goes on where the other was: the observations that the learner has to
    act upon next are those it had last. Environments in this process may go on in workers and the
    reverse, and in another number of workers.

    Args:
        vec_env: Of as many environments, made and wrapped alike by the same versions of packages.
        state: What `take_vec_state` returned; it is not changed.

    Raises:
        ValueError: If the state is of a vector environment that is built otherwise. Reset after any error.
        StateUnavailableError: If environments drew from the global generators of workers, or a lost worker
            was being replaced, and these are not the same workers.
    """
    wrappers = []
    while isinstance(vec_env, VecEnvWrapper):
        wrappers.append(vec_env)
        vec_env = vec_env.venv
    names, expected = [kept["class"] for kept in state["wrappers"]], [class_name(each) for each in wrappers]
    if (state["n_envs"], names) != (vec_env.num_envs, expected):
        raise ValueError(
            f"expected a state of {vec_env.num_envs} environments within {expected}, got one of "
            f"{state['n_envs']} within {names}; make as many and wrap them as when it was taken."
        )
    # Spaces first: the first environment in this process may have the same ones.
    restore_spaces((vec_env.action_space, vec_env.observation_space), state["spaces"])
    _restore_core(vec_env, state["kept"])
    vec_env._seeds, vec_env._options = from_plain(state["seeds"]), from_plain(state["options"])
    for wrapper, kept in zip(wrappers, state["wrappers"], strict=True):
        restore_wrapper(wrapper, kept["kept"])


def _take_core(vec_env: VecEnv) -> Plain:
    if type(vec_env) is DummyVecEnv:
        return {
            "environments": [take_state(env) for env in vec_env.envs],
            "observations": [array.copy() for array in vec_env.buf_obs.values()],
            "workers": None,
        }
    if type(vec_env) is WorkerVecEnv:
        return vec_env.take_states()
    if offers_state(vec_env):
        return to_plain(vec_env.get_state(), "get_state()")  # type: ignore[attr-defined]
    raise StateUnavailableError(
        f"expected a vector environment whose state can be taken, got {class_name(vec_env)}, whose "
        "environments cannot be read out; use vec_env='dummy' or 'workers' to resume without a reset."
    )


def _restore_core(vec_env: VecEnv, kept: Plain) -> None:
    if type(vec_env) is DummyVecEnv:
        check_unbound(kept)
        for env, state in zip(vec_env.envs, kept["environments"], strict=True):
            restore_state(env, state)
        for array, value in zip(vec_env.buf_obs.values(), kept["observations"], strict=True):
            array[...] = value
    elif type(vec_env) is WorkerVecEnv:
        vec_env.restore_states(kept)
    else:
        vec_env.set_state(from_plain(kept))  # type: ignore[attr-defined]


def _take_normalize(vec_env: Any) -> Plain:
    return {
        "obs_rms": _moments(getattr(vec_env, "obs_rms", None)),  # absent without norm_obs
        "ret_rms": _moments(vec_env.ret_rms),
        "returns": to_plain(vec_env.returns),
        "old_reward": to_plain(vec_env.old_reward),
        "old_obs": to_plain(getattr(vec_env, "old_obs", None)),  # absent before the first reset
    }


def _restore_normalize(vec_env: Any, kept: Plain) -> None:
    _set_moments(getattr(vec_env, "obs_rms", None), kept["obs_rms"])
    _set_moments(vec_env.ret_rms, kept["ret_rms"])
    for name in ("returns", "old_reward", "old_obs"):
        if kept[name] is not None:
            setattr(vec_env, name, from_plain(kept[name]))


def _moments(moments: Any) -> Plain:
    """Returns running moments, or those of each key."""
    if isinstance(moments, dict):
        return {key: _moments(value) for key, value in moments.items()}
    return None if moments is None else to_plain(vars(moments))


def _set_moments(moments: Any, kept: Plain) -> None:
    if isinstance(moments, dict):
        for key, value in moments.items():
            _set_moments(value, kept[key])
    elif isinstance(moments, RunningMeanStd):
        moments.mean, moments.var, moments.count = (
            from_plain(kept[name]) for name in ("mean", "var", "count")
        )


def _take_stack(vec_env: Any) -> Plain:
    return [stack.stacked_obs.copy() for stack in _stacks(vec_env.stacked_obs)]


def _restore_stack(vec_env: Any, kept: Plain) -> None:
    for stack, value in zip(_stacks(vec_env.stacked_obs), kept, strict=True):
        stack.stacked_obs = np.array(value)


def _stacks(stack: StackedObservations[Any]) -> list[Any]:
    """Returns the stack of an array, or those of a dict's arrays."""
    return list(getattr(stack, "sub_stacked_observations", {"": stack}).values())


_COUNTS = ("episode_count", "episode_returns", "episode_lengths")


def _take_counts(vec_env: Any) -> Plain:
    if vec_env.results_writer is not None:
        raise StateUnavailableError(
            "expected a VecMonitor without a file, got one that writes its episodes down, which a restored "
            "state could not rewind; pass filename=None."
        )
    return {name: to_plain(getattr(vec_env, name)) for name in _COUNTS}


def _restore_counts(vec_env: Any, kept: Plain) -> None:
    for name in _COUNTS:
        setattr(vec_env, name, from_plain(kept[name]))


_WRAPPERS: dict[type, tuple[Callable[[Any], Plain], Callable[[Any, Plain], None]]] = {
    VecFrameStack: (_take_stack, _restore_stack),
    VecMonitor: (_take_counts, _restore_counts),
    VecNormalize: (_take_normalize, _restore_normalize),
} | dict.fromkeys(
    (VecCheckNan, VecExtractDictObs, VecTransposeImage), (lambda vec_env: None, lambda vec_env, kept: None)
)


def take_wrapper(wrapper: VecEnvWrapper) -> Plain:
    """Returns what one wrapper keeps, without what it wraps."""
    if type(wrapper) in _WRAPPERS:
        return _WRAPPERS[type(wrapper)][0](wrapper)
    if offers_state(wrapper):
        return to_plain(wrapper.get_state(), "get_state()")
    raise StateUnavailableError(
        f"expected a wrapper whose state can be taken, got {class_name(wrapper)}: what it keeps from step to "
        "step is not known here. Give its class the methods get_state() and set_state(state)."
    )


def restore_wrapper(wrapper: VecEnvWrapper, kept: Plain) -> None:
    """Puts back what `take_wrapper` returned."""
    if type(wrapper) in _WRAPPERS:
        _WRAPPERS[type(wrapper)][1](wrapper, kept)
    else:
        wrapper.set_state(from_plain(kept))
