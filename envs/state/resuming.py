"""Vector environments that go on after a crash, as far as their environments let them."""

import sys
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from envs.state.environment_state import StateUnavailableError
from envs.state.vec_env_state import restore_vec_state, restore_wrapper, take_vec_state, take_wrapper

LOST = "lost"
NORMALISER = "normaliser"


class Resuming:
    """Takes states of vector environments; where there are none, keeps the normaliser and resets.

    It says once, on stderr, why there is none.
    """

    def __init__(self) -> None:
        self._told = False

    def take(self, vec_env: VecEnv) -> dict[str, Any]:
        """Return the state, between two steps, or what is left where an environment has none to give."""
        try:
            return take_vec_state(vec_env)
        except StateUnavailableError as error:
            if not self._told:
                print(f"a resumed run will begin with new episodes: {error}", file=sys.stderr)
                self._told = True
            normaliser = _normaliser(vec_env)
            return {LOST: str(error), NORMALISER: None if normaliser is None else take_wrapper(normaliser)}

    def restore(self, vec_env: VecEnv, state: dict[str, Any]) -> Any:
        """Put fresh environments into a state.

        Returns:
            None; or, where there was no state to take, the observations of new episodes.
        """
        if LOST not in state:
            restore_vec_state(vec_env, state)
            return None
        normaliser = _normaliser(vec_env)
        if normaliser is not None:
            restore_wrapper(normaliser, state[NORMALISER])
        return vec_env.reset()


def _normaliser(vec_env: VecEnv) -> VecNormalize | None:
    while isinstance(vec_env, VecEnvWrapper):
        if isinstance(vec_env, VecNormalize):
            return vec_env
        vec_env = vec_env.venv
    return None
