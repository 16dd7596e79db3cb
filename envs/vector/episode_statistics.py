"""Returns and lengths of the current episodes of many environments, as arrays."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EpisodeStatistics:
    """Record what SB3's ``Monitor`` records, for n environments at once.

    There is a Python loop only over the environments whose episode ends, so counting a step of 64
    environments takes a few microseconds.
    """

    def __init__(self, n_envs: int) -> None:
        """Start all counts at zero.

        Args:
            n_envs: The number of environments, n.
        """
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._start = time.time()

    def restart(self) -> None:
        """Set all counts to zero, after a reset of all environments."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of steps of each current episode so far, (n,)."""
        return self._lengths

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the counts of the current episodes."""
        return {"returns": self._returns, "lengths": self._lengths}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore a state of `get_state`."""
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]

    def step(
        self, rewards: NDArray[Any], terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
        """Count one step of every environment.

        Args:
            rewards: This step's rewards, (n,).
            terminated: Whether the task ended the episode, (n,).
            truncated: Whether something else ended it, (n,).

        Returns:
            dones (n,), and a new info per environment: ``TimeLimit.truncated`` (truncated and not
            terminated), and, if an episode ended, ``episode`` with its return ``r``, length ``l``, and the
            seconds ``t`` since this object was made, as in SB3's ``Monitor``.
        """
        self._returns += rewards
        self._lengths += 1
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": only} for only in (truncated & ~terminated).tolist()
        ]
        if dones.any():
            seconds = round(time.time() - self._start, 6)
            for i in np.flatnonzero(dones):
                infos[i]["episode"] = {
                    "r": round(float(self._returns[i]), 6),
                    "l": int(self._lengths[i]),
                    "t": seconds,
                }
            self._returns[dones] = 0.0
            self._lengths[dones] = 0
        return dones, infos
