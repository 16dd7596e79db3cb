"""Resetting some environments of a Gymnasium ``VectorEnv`` while the others stand still."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import wrappers
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

# vector environment, mask (n,) -> observations (n, ...), of which those under the mask are new; infos
PartialReset = Callable[[VectorEnv[Any, Any, Any], NDArray[np.bool_]], tuple[Any, dict[str, Any]]]

# These keep nothing from step to step that a reset outside a step would put wrong. The others do:
# NormalizeReward, say, drops the first reward after a done, which it takes for that of the reset.
_STATELESS = (
    wrappers.vector.RecordEpisodeStatistics,
    wrappers.vector.TransformAction,
    wrappers.vector.TransformObservation,
    wrappers.vector.TransformReward,
    wrappers.vector.VectorizeTransformAction,
    wrappers.vector.VectorizeTransformObservation,
    wrappers.vector.VectorizeTransformReward,
)


def by_mask(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Resets through Gymnasium's own option, which ``AutoresetMode.DISABLED`` promises to take."""
    return env.reset(options={"reset_mask": mask.copy()})


def by_step(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Takes the step that resets: right where every environment has ended, as a single one has."""
    action = env.action_space.sample()
    observations, _, _, _, infos = env.step(action)
    return observations, infos


def _of_cartpole(env: VectorEnv[Any, Any, Any], mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
    """Does to the masked columns of Gymnasium's vectorised CartPole what its next step would do."""
    assert isinstance(env, CartPoleVectorEnv) and env.state is not None
    env.state[:, mask] = env.np_random.uniform(env.low, env.high, size=(4, int(mask.sum())))
    env.steps[mask] = 0
    env.prev_done[mask] = False
    return env.state.T.astype(np.float32), {}


def partial_reset_of(env: VectorEnv[Any, Any, Any]) -> PartialReset:
    """Finds the way to reset some environments and leave the others alone.

    Args:
        env: A vector environment whose mode is NEXT_STEP or DISABLED.

    Returns:
        The way.

    Raises:
        ValueError: If there is none. In NEXT_STEP the reset of one environment takes up a step of all,
            whose actions the others would need before anybody has chosen them.
    """
    if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
        return by_mask
    if env.num_envs == 1:
        return by_step
    inner: Any = env
    while isinstance(inner, _STATELESS):
        inner = inner.env
    # Gymnasium's two hear the mask in every mode. Async without shared memory does too, but its
    # workers (of 1.4.0) still reset again at the next step.
    if isinstance(inner, SyncVectorEnv) or (isinstance(inner, AsyncVectorEnv) and inner.shared_memory):
        return by_mask
    if type(env) is CartPoleVectorEnv:
        return _of_cartpole
    raise ValueError(
        f"expected a vector environment that can reset some environments alone, got {env} with {inner} in "
        "AutoresetMode.NEXT_STEP, whose resets would become transitions that never happened; make it "
        "with autoreset_mode SAME_STEP or DISABLED (AsyncVectorEnv: or with shared_memory=True), or pass "
        "partial_reset."
    )
