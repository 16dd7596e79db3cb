"""The workers of a vector environment, which are replaced when lost, and the arrays that they share."""

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs
from stable_baselines3.common.vec_env.util import dict_to_obs

from envs.cores import usable_cores
from envs.observations import copy_row
from envs.workers.shared_memory import StepArrays
from envs.workers.worker import Worker, WorkerLostError, close_all, stop_all
from envs.workers.worker_error import WorkerError, make_error
from envs.workers.worker_process import Failure

_MAX_DEATHS = 3  # consecutive deaths after which a worker is no longer replaced


class WorkerPool:
    """Workers that each have a block of the environments, in order.

    `WorkerVecEnv` describes what happens if a worker is lost.

    Args:
        env_fns: One function per environment.
        n_workers: The number of workers; at most one per environment is used.
        timeout: See `WorkerVecEnv`.

    Attributes:
        workers: The workers, in the order of their blocks.
        observation_space: The first environment's observation space.
        action_space: The first environment's action space.
        metadata: The first environment's metadata.
        arrays: The arrays that are shared with the workers.
        buffer: Which of the arrays' two observation buffers has the learner's last observations.
        first_seeds: The seeds of the environments' first reset; None before it.
        reset_infos: The infos of every environment's last reset.
        replacements: How many processes were started to replace lost ones.

    Raises:
        WorkerError: If an environment cannot be built; the message has its index and traceback.
    """

    arrays: StepArrays

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], n_workers: int, timeout: float | None
    ) -> None:
        cores = usable_cores()
        blocks = np.array_split(np.arange(len(env_fns)), min(n_workers, len(env_fns)))
        # If there is one worker per core, pin each to its core: the scheduler may otherwise put two workers
        # that the parent wakes on the same core, where the second waits for the first.
        pinned = cores if len(blocks) == len(cores) else [None] * len(blocks)
        self.workers = [
            Worker([env_fns[index] for index in block], int(block[0]), timeout, core)
            for block, core in zip(blocks, pinned, strict=True)
        ]
        self.buffer = 0
        self.first_seeds: list[int | None] | None = None
        self.reset_infos: list[dict[str, Any]] = [{} for _ in env_fns]
        self.replacements = 0
        self._end = weakref.finalize(self, close_all, self.workers, os.getpid())
        self._free: Callable[[], Any] | None = None  # set once the arrays exist
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for worker in self.workers:
            worker.start()
        spaces = self.receive(self.workers)
        spaces |= self.replace([worker for worker in self.workers if worker not in spaces])
        self.observation_space, self.action_space, self.metadata = spaces[self.workers[0]]
        self.arrays = StepArrays(len(self.reset_infos), self.observation_space, self.action_space)
        self._free = weakref.finalize(self, os.close, self.arrays.descriptor)
        self._observations = [dict_to_obs(self.observation_space, each) for each in self.arrays.observations]
        for worker in self.workers:
            worker.begun = worker.select(self.arrays.begun)
            self._attach(worker)
        replies = self.receive(self.workers)
        self.replace([worker for worker in self.workers if worker not in replies])

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called."""
        return self._end.alive

    @property
    def observations(self) -> VecEnvObs:
        """The learner's last observations, (n_envs, ...), in shared memory."""
        return self._observations[self.buffer]

    @property
    def next_buffer(self) -> int:
        """The buffer that the workers write to."""
        return 1 - self.buffer

    def swap_buffers(self) -> None:
        """Make the observations that the workers have written the learner's last observations."""
        self.buffer = self.next_buffer

    def close(self) -> None:
        """Close the environments and end the workers; kill those that do not exit by themselves."""
        self._end()
        if self._free is not None:
            self._free()

    def ask(self, requests: dict[Worker, tuple[Any, ...]]) -> dict[Worker, Any]:
        """Return the workers' replies to calls of `EnvBlock`; replace a lost worker and repeat its call.

        Args:
            requests: {worker: (method's name, *arguments)}.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        replies: dict[Worker, Any] = {}
        while missing := [worker for worker in requests if worker not in replies]:
            for worker in missing:
                worker.send(*requests[worker])
            replies |= self.receive(missing)
            self.replace([worker for worker in missing if worker not in replies])
        return replies

    def receive(self, workers: Iterable[Worker]) -> dict[Worker, Any]:
        """Return the replies of the workers that are not lost, or raise the first failure."""
        replies = {}
        for worker in workers:
            with contextlib.suppress(WorkerLostError):
                replies[worker] = worker.receive()
        for worker, reply in replies.items():
            if isinstance(reply, Failure):
                raise make_error(reply, worker)
        return replies

    def replace(self, lost: Sequence[Worker]) -> dict[Worker, Any]:
        """Replace the processes of lost workers, in parallel, and start new episodes if there were any.

        Returns:
            {worker: what `EnvBlock.build` returned}.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        spaces: dict[Worker, Any] = {}
        while missing := [worker for worker in lost if worker not in spaces]:
            for worker in missing:
                worker.deaths += 1
                if worker.deaths == _MAX_DEATHS:
                    worker.deaths = 0
                    raise WorkerError(
                        f"{_MAX_DEATHS} deaths in a row: {worker} {worker.exit_reason}; "
                        "step these environments in a DummyVecEnv to see why, or raise the timeout"
                    )
                self.replacements += 1
                warnings.warn(
                    f"{worker} {worker.exit_reason}; it is replaced, and their episodes are truncated.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            try:
                spaces |= self._restart(missing)
            except WorkerError:
                for worker in missing:  # they are not ready for requests, so let the next call replace them
                    worker.stop()
                raise
        return spaces

    def _restart(self, workers: Sequence[Worker]) -> dict[Worker, Any]:
        """Start processes; return the replies of `EnvBlock.build` for those that were not lost again."""
        for worker in workers:
            worker.start()
        spaces = self.receive(workers)
        ready = list(spaces)
        if self._free is not None:
            for worker in ready:
                self._attach(worker)
            ready = list(self.receive(ready))
        if self.first_seeds is not None:
            for worker in ready:
                seeds = _derive_seeds(worker.select(self.first_seeds), worker.starts)
                worker.send("reset", self.next_buffer, seeds, [{}] * len(seeds))
            replies = self.receive(ready)
            for worker, infos in replies.items():
                self.reset_infos[worker.rows.start : worker.rows.stop] = infos
                worker.truncation_pending = True
            ready = list(replies)
        return {worker: spaces[worker] for worker in ready}

    def _attach(self, worker: Worker) -> None:
        worker.send("attach", len(self.reset_infos), descriptor=self.arrays.descriptor)

    def truncate(self, worker: Worker) -> list[dict[str, Any]]:
        """Write a replaced worker's transitions, which `WorkerVecEnv` describes, and return their infos."""
        rows = slice(worker.rows.start, worker.rows.stop)
        self.arrays.rewards[rows], self.arrays.dones[rows] = 0.0, True
        worker.truncation_pending = False
        return [
            {
                "TimeLimit.truncated": True,
                "terminal_observation": copy_row(self.observations, index),
                "worker_replaced": True,
            }
            for index in worker.rows
        ]

    @contextlib.contextmanager
    def abort_on_interrupt(self) -> Iterator[None]:
        """End the workers if the results of a step or reset cannot be returned, e.g. after Ctrl-C.

        Otherwise the environments would be one step ahead of the learner, and the next transition would
        span two steps.
        """
        try:
            yield
        except WorkerError:
            raise  # the environments can still be inspected
        except BaseException:
            stop_all(self.workers)
            raise


def _derive_seeds(seeds: Sequence[int | None], starts: int) -> list[int | None]:
    """Return seeds that no earlier start used and that are the same in every run; None stays None."""
    return [
        None if seed is None else int(np.random.SeedSequence(seed, spawn_key=(starts,)).generate_state(1)[0])
        for seed in seeds
    ]
