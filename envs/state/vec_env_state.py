"""The full state of a vector environment: a restored vector environment continues bitwise equal."""

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
# {class: attributes that change}; some are absent before the first reset, or without norm_obs. VecFrameStack
# is handled separately.
_WRAPPERS: dict[type, tuple[str, ...]] = {
    VecCheckNan: (),
    VecExtractDictObs: (),
    VecTransposeImage: (),
    VecMonitor: ("episode_count", "episode_returns", "episode_lengths"),
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_reward", "old_obs"),
}


def take_vec_state(vec_env: VecEnv) -> State:
    """Return everything that the next steps and resets of a vector environment depend on, as plain data.

    This works for ``DummyVecEnv`` and SB3's wrappers except ``VecVideoRecorder``; other classes need the
    methods ``get_state`` and ``set_state`` (see `take_state`), as `WorkerVecEnv` has them. The state includes
    the global generators of worker processes if environments draw from them, but neither those of this
    process nor ``reset_infos``.

    Args:
        vec_env: The vector environment, between two steps.

    Raises:
        StateUnavailableError: If an environment, a wrapper or the vector environment itself is of another
            class and lacks these methods. Nothing was changed.
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

    It need not have been reset. It continues where the other stopped: the learner must act next on the
    observations that it received last. A state of environments in this process can be restored into
    workers and vice versa, and into another number of workers.

    Args:
        vec_env: A vector environment with the same number of environments and the same wrappers, made with
            the same versions of packages.
        state: What `take_vec_state` returned; it is not changed.

    Raises:
        ValueError: If the state is of a vector environment that was made differently. After any error, reset
            the vector environment.
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
    # Restore the spaces first: the first environment of a DummyVecEnv may share them.
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
    """Check that a state does not depend on which environments shared a worker.

    Args:
        state: The state of a `WorkerVecEnv` or ``DummyVecEnv``, without its wrappers.

    Raises:
        StateUnavailableError: If environments drew from the global generators of their worker, or if the
            truncated episodes of a replaced worker have not been reported yet.
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
    """Return the state of one wrapper, without that of what it wraps.

    Raises:
        StateUnavailableError: If the wrapper cannot give its state.
    """
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
                restore_moments(getattr(wrapper, name, None), kept[name])
            elif kept[name] is not None:
                setattr(wrapper, name, copy_plain(kept[name]))
    else:
        wrapper.set_state(copy_plain(kept))


def _stacks(stack: StackedObservations[Any]) -> list[Any]:
    """Return the stack of an array observation, or the stacks of a dict observation's arrays."""
    return list(getattr(stack, "sub_stacked_observations", {"": stack}).values())


def _take_value(value: Any) -> Plain:
    """Return a value as plain data; it may be plain data, running moments, or a dict of them."""
    if isinstance(value, dict):
        return {key: _take_value(item) for key, item in value.items()}
    return copy_plain(vars(value) if isinstance(value, RunningMeanStd) else value)


def restore_moments(moments: Any, kept: Plain) -> None:
    """Restore running moments, or those of each key.

    Raises:
        ValueError: the kept ones are of values of another shape, or are none.
    """
    if isinstance(moments, dict):
        for key, value in moments.items():
            restore_moments(value, kept[key])
    elif moments is not None:
        for name in ("mean", "var", "count"):
            found, own = (np.asarray(each) for each in (kept[name], getattr(moments, name)))
            fits = (found.shape, found.dtype) == (own.shape, own.dtype)
            if not fits or (name != "mean" and (found < 0).any()):
                expected = "numbers" if name == "mean" else "numbers ≥ 0"
                raise ValueError(f"the {name} of a normaliser must be {expected} of shape {own.shape}")
            setattr(moments, name, copy_plain(kept[name]))
