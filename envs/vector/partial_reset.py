"""Reset some environments of a Gymnasium ``VectorEnv`` without stepping the others."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import wrappers
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

# (vector environment, mask (n,)) -> observations (n, ...), new ones where the mask is true; infos
PartialReset = Callable[[VectorEnv[Any, Any, Any], NDArray[np.bool_]], tuple[Any, dict[str, Any]]]

# These wrappers stay correct if a reset happens outside a step. Others do not: e.g. NormalizeReward ignores
# the first reward after a done, which it assumes to be that of the reset step.
_STATELESS = (
    wrappers.vector.RecordEpisodeStatistics,
    wrappers.vector.TransformAction,
    wrappers.vector.TransformObservation,
    wrappers.vector.TransformReward,
    wrappers.vector.VectorizeTransformAction,
    wrappers.vector.VectorizeTransformObservation,
    wrappers.vector.VectorizeTransformReward,
)


def reset_by_mask(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Reset by Gymnasium's own option, which every environment in ``AutoresetMode.DISABLED`` supports."""
    return env.reset(options={"reset_mask": mask.copy()})


def reset_by_step(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Make the step that resets; correct only if all episodes have ended, e.g. with a single environment."""
    action = env.action_space.sample()
    observations, _, _, _, infos = env.step(action)
    return observations, infos


def _reset_cartpole(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Reset the masked environments of Gymnasium's vectorised CartPole as its next step would do it."""
    assert isinstance(env, CartPoleVectorEnv) and env.state is not None
    env.state[:, mask] = env.np_random.uniform(env.low, env.high, size=(4, int(mask.sum())))
    env.steps[mask] = 0
    env.prev_done[mask] = False
    return env.state.T.astype(np.float32), {}


def find_partial_reset(env: VectorEnv[Any, Any, Any]) -> PartialReset:
    """Return a function that resets some environments and leaves the others unchanged.

    Args:
        env: A vector environment whose mode is NEXT_STEP or DISABLED.

    Raises:
        ValueError: If there is none. In NEXT_STEP, the reset of one environment takes a step of all, for
            which the others would need actions that have not been chosen yet.
    """
    if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
        return reset_by_mask
    if env.num_envs == 1:
        return reset_by_step
    inner: Any = env
    while isinstance(inner, _STATELESS):
        inner = inner.env
    # These two of Gymnasium's accept the mask in every mode. AsyncVectorEnv without shared memory does too,
    # but its workers (in Gymnasium 1.4.0) reset again at the next step.
    if isinstance(inner, SyncVectorEnv) or (isinstance(inner, AsyncVectorEnv) and inner.shared_memory):
        return reset_by_mask
    if type(env) is CartPoleVectorEnv:
        return _reset_cartpole
    raise ValueError(
        f"{env} with {inner} in AutoresetMode.NEXT_STEP cannot reset some environments alone, and its resets "
        "would appear as transitions; make it with autoreset_mode SAME_STEP or DISABLED (AsyncVectorEnv: or "
        "with shared_memory=True), or pass partial_reset"
    )
