"""Returns and lengths of the running episodes of many environments, counted as arrays."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EpisodeStatistics:
    """Counts what SB3's ``Monitor`` counts, for n environments at once.

    Python touches an environment only where its episode ends: a step of 64 environments costs a
    few microseconds.
    """

    def __init__(self, n_envs: int) -> None:
        """Starts all counts at zero.

        Args:
            n_envs: The number of environments, n.
        """
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._start = time.time()

    def restart(self) -> None:
        """Forgets the running episodes, as a reset of every environment does."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The steps (n,) of the running episodes so far."""
        return self._lengths

    def step(
        self, rewards: NDArray[Any], terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
        """Counts one step of every environment.

        Args:
            rewards: Of this step, (n,).
            terminated: Whether the task ended the episode, (n,).
            truncated: Whether something else cut it, (n,).

        Returns:
            dones (n,), and a fresh info for each environment: ``TimeLimit.truncated`` (cut and not
            terminated), and where an episode ended, ``episode``: its return ``r``, length ``l``, and
            seconds ``t`` since these statistics began, as in SB3's ``Monitor``.
        """
        self._returns += rewards
        self._lengths += 1
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": cut} for cut in (truncated & ~terminated).tolist()
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
