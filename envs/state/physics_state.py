"""The state of a MuJoCo simulation, complete enough to go on to the same bits."""

import re
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.state.plain_data import Plain

_TASKS = re.compile(r"gymnasium\.envs\.mujoco\.\w+_v[45]")


def is_physics(env: gym.Env[Any, Any]) -> bool:
    """Returns whether an environment is one of Gymnasium's MuJoCo tasks, v4 or v5, itself."""
    return _TASKS.fullmatch(type(env).__module__) is not None


def take_physics(env: Any) -> Plain:
    """Returns the state of a task's simulation.

    MuJoCo's integration state, warm start included, fixes all later physics. Rewards need more: after
    ``mj_step`` what is computed from positions (``xpos``, ``cinert``, ...) still belongs to the state before
    the last substep, and Ant and Humanoid measure from there how far the next step gets. ``mj_forward``
    would bring it up to date, and so change that reward; it is kept as it is.

    Args:
        env: See `is_physics`.

    Returns:
        ``integration``, one vector, and ``derived``, every array of float64 whose size the model fixes.
        Contacts and other lists of varying length are left out: the next step makes them anew.

    Raises:
        TypeError: If the model lets bodies sleep, of which the integration state tells nothing.
    """
    import mujoco  # type: ignore[import-untyped]

    sleep = getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0)
    if env.model.opt.enableflags & int(sleep):
        raise TypeError("expected a model without sleeping bodies, got the sleep flag; remove it.")
    integration = np.empty(mujoco.mj_stateSize(env.model, _kind(mujoco)))
    mujoco.mj_getState(env.model, env.data, integration, _kind(mujoco))
    derived = {name: array.copy() for name, array in _derived(mujoco, env).items()}
    return {"integration": integration, "derived": derived}


def restore_physics(env: Any, state: Plain) -> None:
    """Puts the simulation of a task with the same model into a state of `take_physics`.

    Raises:
        ValueError: If the state is of another model or another version of MuJoCo.
    """
    import mujoco

    # Names and sizes are the simulation's own, and no integer is written: a state from a stranger
    # cannot point MuJoCo outside its memory.
    arrays = _derived(mujoco, env)
    sizes = {name: array.shape for name, array in arrays.items()}
    size = mujoco.mj_stateSize(env.model, _kind(mujoco))
    kept, integration = state["derived"], state["integration"]
    if integration.shape != (size,) or {name: array.shape for name, array in kept.items()} != sizes:
        raise ValueError(
            f"expected {size} numbers of physics and {len(sizes)} arrays of MuJoCo {mujoco.__version__}, got "
            f"{integration.shape} and {len(kept)}; restore into the same task with the same packages."
        )
    mujoco.mj_setState(env.model, env.data, integration, _kind(mujoco))
    for name, array in arrays.items():
        array[...] = kept[name]


def _kind(mujoco: Any) -> int:
    return int(mujoco.mjtState.mjSTATE_INTEGRATION)


def _derived(mujoco: Any, env: Any) -> dict[str, NDArray[np.float64]]:
    """Returns views of the simulation's arrays of float64 that are as large as in a new one."""
    new = mujoco.MjData(env.model)
    found = {}
    for name in dir(new):
        if name.startswith("_") or not isinstance(array := getattr(new, name), np.ndarray):
            continue
        current = getattr(env.data, name)
        if array.dtype == np.float64 and array.size and current.shape == array.shape:
            found[name] = current
    return found
