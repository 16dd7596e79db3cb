"""The state of a worker pool: that of its environments, and what the pool itself stores between steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.state.environment_state import StateUnavailableError
from envs.state.plain_data import Plain
from envs.state.vec_env_state import check_portable
from envs.workers.worker_pool import WorkerPool


def take_pool_state(pool: WorkerPool) -> Plain:
    """Return the environments' states and what the pool stores between steps, for `take_vec_state`.

    Raises:
        StateUnavailableError: If an environment cannot give its state.
        WorkerError: If an environment raises, or a worker dies three times.
    """
    replies = pool.ask({worker: ("take_states",) for worker in pool.workers})
    for reply in replies.values():
        if isinstance(reply, StateUnavailableError):
            raise reply
    pending = [worker.truncation_pending for worker in pool.workers]
    return {
        "environments": [state for worker in pool.workers for state in replies[worker][0]],
        "observations": _read(pool, pool.buffer),
        "workers": {
            "sizes": [len(worker.rows) for worker in pool.workers],
            "generators": [replies[worker][1] for worker in pool.workers],
            "cut_short": pending,
            "first_observations": _read(pool, pool.next_buffer) if any(pending) else None,
            "first_seeds": pool.first_seeds,
            "starts": max(worker.starts for worker in pool.workers),
            "replacements": pool.replacements,
        },
    }


def restore_pool_state(pool: WorkerPool, state: Plain) -> None:
    """Restore the environments and the pool from `take_pool_state`, for `restore_vec_state`.

    Raises:
        StateUnavailableError: See `check_portable`; only if the sizes of the workers' blocks differ.
        ValueError: If the state is of other environments.
        WorkerError: If an environment raises, or a worker dies three times.
    """
    workers = state["workers"]
    generators, pending = [None] * len(pool.workers), [False] * len(pool.workers)
    if workers is not None and workers["sizes"] == [len(worker.rows) for worker in pool.workers]:
        generators, pending = workers["generators"], workers["cut_short"]
    else:
        check_portable(state)
    states = state["environments"]
    replies = pool.ask(
        {
            worker: ("restore_states", worker.select(states), generator)
            for worker, generator in zip(pool.workers, generators, strict=True)
        }
    )
    for reply in replies.values():
        if reply is not None:
            raise reply
    _write(pool, pool.buffer, state["observations"])
    if any(pending):
        _write(pool, pool.next_buffer, workers["first_observations"])
    # A state that was taken without workers contains each environment's last seed.
    pool.first_seeds = [each["layers"][-1]["np_random_seed"] for each in states]
    for worker, truncation_pending in zip(pool.workers, pending, strict=True):
        worker.truncation_pending = truncation_pending
    if workers is not None:
        pool.first_seeds, pool.replacements = workers["first_seeds"], workers["replacements"]
        for worker in pool.workers:  # so that later replacements get seeds that have not been used
            worker.starts = max(worker.starts, workers["starts"])


def _read(pool: WorkerPool, buffer: int) -> list[Any]:
    return [array.copy() for array in pool.arrays.observations[buffer].values()]


def _write(pool: WorkerPool, buffer: int, observations: Sequence[np.ndarray]) -> None:
    for array, value in zip(pool.arrays.observations[buffer].values(), observations, strict=True):
        array[...] = value
