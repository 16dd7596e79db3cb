"""Save and restore vector environments for checkpoints, as far as their environments support it."""

import sys
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from envs.state.environment_state import StateUnavailableError, class_name
from envs.state.plain_data import convert_tags
from envs.state.vec_env_state import (
    restore_moments,
    restore_vec_state,
    restore_wrapper,
    take_vec_state,
    take_wrapper,
)

LOST = "lost"
NORMALISER = "normaliser"


class VecEnvCheckpointer:
    """Take and restore states of vector environments.

    If a vector environment cannot give its state, only that of its normaliser is taken, and restoring resets
    the environments. The first time that this happens, the reason is printed on stderr.
    """

    def __init__(self) -> None:
        self._warned = False

    def take(self, vec_env: VecEnv) -> dict[str, Any]:
        """Return the state between two steps, or only the normaliser's if an environment cannot give any."""
        try:
            return take_vec_state(vec_env)
        except StateUnavailableError as error:
            if not self._warned:
                print(f"a resumed run will start new episodes: {error}", file=sys.stderr)
                self._warned = True
            normaliser = unwrap_vec_normalize(vec_env)
            return {LOST: str(error), NORMALISER: None if normaliser is None else take_wrapper(normaliser)}

    def restore(self, vec_env: VecEnv, state: dict[str, Any]) -> Any:
        """Restore newly made environments from a state of `take`.

        Returns:
            None; or the first observations of new episodes, if the state contains only the normaliser's.
        """
        state = convert_tags(state)
        if LOST not in state:
            restore_vec_state(vec_env, state)
            return None
        normaliser = unwrap_vec_normalize(vec_env)
        if normaliser is not None:
            restore_wrapper(normaliser, state[NORMALISER])
        return vec_env.reset()


def restore_observation_moments(normaliser: VecNormalize, state: dict[str, Any]) -> None:
    """Restore what a normaliser knows of observations, from a state of any number of environments.

    Raises:
        Exception: the state has no normaliser, or one of other observations.
    """
    state = convert_tags(state)
    wrappers = {wrapper["class"]: wrapper["kept"] for wrapper in state.get("wrappers", ())}
    kept = state[NORMALISER] if LOST in state else wrappers[class_name(normaliser)]
    restore_moments(getattr(normaliser, "obs_rms", None), kept["obs_rms"])
