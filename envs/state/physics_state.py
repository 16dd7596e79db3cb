"""The state of a MuJoCo simulation, so complete that a restored simulation continues bitwise equal."""

import re
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.state.plain_data import Plain

_TASKS = re.compile(r"gymnasium\.envs\.mujoco\.\w+_v[45]")


def is_physics(env: gym.Env[Any, Any]) -> bool:
    """Return whether an unwrapped environment is one of Gymnasium's MuJoCo tasks, v4 or v5."""
    return _TASKS.fullmatch(type(env).__module__) is not None


def take_physics(env: Any) -> Plain:
    """Return the state of a task's simulation.

    MuJoCo's integration state, which includes the warm start, determines all later physics. Rewards need
    more: after ``mj_step`` the arrays computed from positions (``xpos``, ``cinert``, ...) still belong to the
    state before the last substep, and Ant and Humanoid measure the next step's progress from them.
    ``mj_forward`` would update these arrays, and so change that reward; therefore they are stored too.

    Args:
        env: One of Gymnasium's MuJoCo tasks (see `is_physics`).

    Returns:
        ``integration``, a vector, and ``derived``, all float64 arrays whose size is fixed by the model.
        Contacts and other lists of varying length are left out: the next step recomputes them.

    Raises:
        TypeError: If the model lets bodies sleep: the integration state does not contain which ones do.
    """
    import mujoco  # type: ignore[import-untyped]

    sleep = getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0)
    if env.model.opt.enableflags & int(sleep):
        raise TypeError("the model has the sleep flag, whose state cannot be taken; remove the flag.")
    integration = np.empty(mujoco.mj_stateSize(env.model, _state_kind(mujoco)))
    mujoco.mj_getState(env.model, env.data, integration, _state_kind(mujoco))
    derived = {name: array.copy() for name, array in _view_derived(mujoco, env).items()}
    return {"integration": integration, "derived": derived}


def restore_physics(env: Any, state: Plain) -> None:
    """Restore the simulation of a task with the same model from a state of `take_physics`.

    Raises:
        ValueError: If the state is of another model or another version of MuJoCo.
    """
    import mujoco

    # Names and sizes come from the simulation, and no integer is written: an untrusted state
    # cannot make MuJoCo read or write outside its memory.
    arrays = _view_derived(mujoco, env)
    sizes = {name: array.shape for name, array in arrays.items()}
    size = mujoco.mj_stateSize(env.model, _state_kind(mujoco))
    kept, integration = state["derived"], state["integration"]
    if integration.shape != (size,) or {name: array.shape for name, array in kept.items()} != sizes:
        raise ValueError(
            f"expected {size} numbers of physics and {len(sizes)} arrays of MuJoCo {mujoco.__version__}, got "
            f"{integration.shape} and {len(kept)}; restore into the same task with the same packages."
        )
    mujoco.mj_setState(env.model, env.data, integration, _state_kind(mujoco))
    for name, array in arrays.items():
        array[...] = kept[name]


def _state_kind(mujoco: Any) -> int:
    return int(mujoco.mjtState.mjSTATE_INTEGRATION)


def _view_derived(mujoco: Any, env: Any) -> dict[str, NDArray[np.float64]]:
    """Return views of the simulation's float64 arrays that have the same size in a new simulation."""
    new = mujoco.MjData(env.model)
    found = {}
    for name in dir(new):
        if name.startswith("_") or not isinstance(array := getattr(new, name), np.ndarray):
            continue
        current = getattr(env.data, name)
        if array.dtype == np.float64 and array.size and current.shape == array.shape:
            found[name] = current
    return found
