"""The full state of a vector environment; a restored one continues bitwise equal."""

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
    has_state_methods,
    restore_state,
    take_state,
)
from envs.state.generator_state import restore_spaces, take_spaces
from envs.state.plain_data import Plain, copy_plain
from envs.vector.forwarding import ForwardingDummyVecEnv

_IN_PROCESS = (DummyVecEnv, ForwardingDummyVecEnv)  # a subclass may have more state
# Attributes that change; some are absent before the first reset, or without norm_obs. Besides: VecFrameStack.
_WRAPPERS: dict[type, tuple[str, ...]] = {
    VecCheckNan: (),
    VecExtractDictObs: (),
    VecTransposeImage: (),
    VecMonitor: ("episode_count", "episode_returns", "episode_lengths"),
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_reward", "old_obs"),
}


def take_vec_state(vec_env: VecEnv) -> State:
    """Return all that the next steps and resets of a vector environment depend on, as plain data.

    Known are ``DummyVecEnv`` and SB3's wrappers except ``VecVideoRecorder``; other classes, e.g.
    `WorkerVecEnv`, give their own state by the methods that environments may have, see `take_state`. The
    state includes the global generators of worker processes if environments draw from them, but not this
    process's, nor ``reset_infos``.

    Args:
        vec_env: Between two steps.

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
            "seeds": copy_plain(list(vec_env._seeds), "seeds"),
            "options": copy_plain(list(vec_env._options), "options"),
            "spaces": take_spaces(spaces),
        }
    except TypeError as error:
        raise StateUnavailableError(f"{class_name(vec_env)} has no plain state: {error}") from error


def restore_vec_state(vec_env: VecEnv, state: State) -> None:
    """Restore a vector environment, e.g. a newly made one, from a state of `take_vec_state`.

    It need not have been reset, and continues where the other stopped: the learner acts next upon the
    observations that it received last. A state of environments in this process can be restored into
    workers and vice versa, and into another number of workers.

    Args:
        vec_env: Of the same number of environments, made and wrapped alike by the same versions of packages.
        state: What `take_vec_state` returned; it is not changed.

    Raises:
        ValueError: If the state is of a vector environment that was made differently. Reset after any error.
        StateUnavailableError: See `check_portable`.
    """
    wrappers = []
    while isinstance(vec_env, VecEnvWrapper):
        wrappers.append(vec_env)
        vec_env = vec_env.venv
    names, expected = [kept["class"] for kept in state["wrappers"]], [class_name(each) for each in wrappers]
    if (state["n_envs"], names) != (vec_env.num_envs, expected):
        raise ValueError(
            f"expected a state of {vec_env.num_envs} environments within {expected}, got one of "
            f"{state['n_envs']} within {names}; use the number and the wrappers that it was taken with"
        )
    # Spaces first: the first environment in this process may share them.
    restore_spaces((vec_env.action_space, vec_env.observation_space), state["spaces"])
    _restore_core(vec_env, state["kept"])
    vec_env._seeds, vec_env._options = copy_plain(state["seeds"]), copy_plain(state["options"])
    for wrapper, kept in zip(wrappers, state["wrappers"], strict=True):
        restore_wrapper(wrapper, kept["kept"])


def _take_core(vec_env: VecEnv) -> Plain:
    if isinstance(vec_env, DummyVecEnv) and type(vec_env) in _IN_PROCESS:
        return {
            "environments": [take_state(env) for env in vec_env.envs],
            "observations": [array.copy() for array in vec_env.buf_obs.values()],
            "workers": None,
        }
    if has_state_methods(vec_env):
        return copy_plain(vec_env.get_state(), "get_state()")  # type: ignore[attr-defined]
    raise StateUnavailableError(
        f"{class_name(vec_env)} does not give the state of its environments; "
        "use vec_env='dummy' or 'workers' to resume without a reset"
    )


def _restore_core(vec_env: VecEnv, kept: Plain) -> None:
    if isinstance(vec_env, DummyVecEnv) and type(vec_env) in _IN_PROCESS:
        check_portable(kept)
        for env, state in zip(vec_env.envs, kept["environments"], strict=True):
            restore_state(env, state)
        for array, value in zip(vec_env.buf_obs.values(), kept["observations"], strict=True):
            array[...] = value
    else:
        vec_env.set_state(copy_plain(kept))  # type: ignore[attr-defined]


def check_portable(state: Plain) -> None:
    """Check that a state does not depend on which workers the environments were in.

    Args:
        state: Of a `WorkerVecEnv` or ``DummyVecEnv``, without its wrappers.

    Raises:
        StateUnavailableError: If environments drew from the global generators of their worker, or if the
            truncated episodes of a replaced worker were not yet reported.
    """
    workers = state["workers"]
    if workers is not None and (
        any(workers["cut_short"]) or any(each is not None for each in workers["generators"])
    ):
        raise StateUnavailableError(
            f"this state was saved with workers of {workers['sizes']} environments; "
            "create the vector environment with the same n_envs and n_workers"
        )


def take_wrapper(wrapper: VecEnvWrapper) -> Plain:
    """Return the state of one wrapper, without what it wraps."""
    if isinstance(wrapper, VecMonitor) and wrapper.results_writer is not None:
        raise StateUnavailableError(
            "the VecMonitor writes its episodes to a file, and restoring a state would not remove lines "
            "from it; pass filename=None"
        )
    if type(wrapper) is VecFrameStack:
        return [stack.stacked_obs.copy() for stack in _stacks(wrapper.stacked_obs)]
    if type(wrapper) in _WRAPPERS:
        return {name: _take_value(getattr(wrapper, name, None)) for name in _WRAPPERS[type(wrapper)]}
    if has_state_methods(wrapper):
        return copy_plain(wrapper.get_state(), "get_state()")
    raise StateUnavailableError(
        f"the attributes of {class_name(wrapper)} that change from step to step are not known; "
        "give the class the methods get_state() and set_state(state)"
    )


def restore_wrapper(wrapper: VecEnvWrapper, kept: Plain) -> None:
    """Restore one wrapper from a state of `take_wrapper`."""
    if type(wrapper) is VecFrameStack:
        for stack, value in zip(_stacks(wrapper.stacked_obs), kept, strict=True):
            stack.stacked_obs = np.array(value)
    elif type(wrapper) in _WRAPPERS:
        for name in _WRAPPERS[type(wrapper)]:
            if name.endswith("_rms"):
                _restore_moments(getattr(wrapper, name, None), kept[name])
            elif kept[name] is not None:
                setattr(wrapper, name, copy_plain(kept[name]))
    else:
        wrapper.set_state(copy_plain(kept))


def _stacks(stack: StackedObservations[Any]) -> list[Any]:
    """Return the stack of an array, or those of a dict's arrays."""
    return list(getattr(stack, "sub_stacked_observations", {"": stack}).values())


def _take_value(value: Any) -> Plain:
    """Return plain data, running moments, or those of each key, as plain data."""
    if isinstance(value, dict):
        return {key: _take_value(item) for key, item in value.items()}
    return copy_plain(vars(value) if isinstance(value, RunningMeanStd) else value)


def _restore_moments(moments: Any, kept: Plain) -> None:
    if isinstance(moments, dict):
        for key, value in moments.items():
            _restore_moments(value, kept[key])
    elif moments is not None:
        vars(moments).update({name: copy_plain(kept[name]) for name in ("mean", "var", "count")})
