"""Rollout workers of which the lost ones are replaced, and the arrays that they share."""

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
from envs.observations import row
from envs.state.environment_state import StateUnavailableError
from envs.state.plain_data import Plain, from_plain, to_plain
from envs.workers.shared_memory import StepArrays
from envs.workers.worker import Worker, WorkerLostError, close_all
from envs.workers.worker_error import WorkerError, error_from
from envs.workers.worker_process import Failure

_DEATHS = 3  # in a row, before a worker is given up


class Crew:
    """Workers with a block of the environments each, in order; `WorkerVecEnv` says what a loss means.

    Args:
        env_fns: One an environment.
        n_workers: At most one an environment.
        timeout: Seconds that a worker may take to build, reset or step its block, None for any.

    Attributes:
        workers: In the order of their blocks.
        observation_space: Of the first environment.
        action_space: The same.
        metadata: The same.
        slot: Of the arrays' two for observations, the one that the learner has seen.
        first_seeds: That the environments began with, None until the first reset.
        reset_infos: Of every environment's last reset.
        replacements: How many processes were started in the place of a lost one.

    Raises:
        WorkerError: If an environment cannot be built; with its index and traceback.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], n_workers: int, timeout: float | None
    ) -> None:
        cores = usable_cores()
        blocks = np.array_split(np.arange(len(env_fns)), min(n_workers, len(env_fns)))
        # With a worker a core each stays on its own: a scheduler that sees the parent wake them puts two on
        # one core, and the other waits.
        homes = cores if len(blocks) == len(cores) else [None] * len(blocks)
        self.workers = [
            Worker([env_fns[index] for index in block], int(block[0]), timeout, core)
            for block, core in zip(blocks, homes, strict=True)
        ]
        self.slot = 0
        self.first_seeds: list[int | None] | None = None
        self.reset_infos: list[dict[str, Any]] = [{} for _ in env_fns]
        self.replacements = 0
        self._arrays: StepArrays | None = None  # until the spaces are known
        self._end = weakref.finalize(self, close_all, self.workers, os.getpid())
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for worker in self.workers:
            worker.start()
        replies = self.receive(self.workers)
        spaces = [replies[worker] if worker in replies else self.replace(worker) for worker in self.workers]
        self.observation_space, self.action_space, self.metadata = spaces[0]
        self._arrays = StepArrays(len(self.reset_infos), self.observation_space, self.action_space)
        self._free = weakref.finalize(self, os.close, self._arrays.descriptor)
        self._observations = [dict_to_obs(self.observation_space, slot) for slot in self._arrays.observations]
        for worker in self.workers:
            self._attach(worker)
        replies = self.receive(self.workers)
        for worker in self.workers:
            if worker not in replies:
                self.replace(worker)

    @property
    def alive(self) -> bool:
        """Whether `close` was not called."""
        return self._end.alive

    @property
    def arrays(self) -> StepArrays:
        """What all share."""
        assert self._arrays is not None
        return self._arrays

    @property
    def observations(self) -> VecEnvObs:
        """What the learner has seen last, (n_envs, ...), in shared memory."""
        return self._observations[self.slot]

    @property
    def next_slot(self) -> int:
        """Into which the workers write."""
        return 1 - self.slot

    def turn(self) -> None:
        """Shows the learner what every worker has written."""
        self.slot = self.next_slot

    def close(self) -> None:
        """Closes the environments and ends the workers; those that do not end by themselves are killed."""
        self._end()
        if self._arrays is not None:
            self._free()

    def ask(self, requests: dict[Worker, tuple[Any, ...]]) -> dict[Worker, Any]:
        """Returns what workers reply to a method of `EnvBlock`; a lost one is replaced and asked again.

        Args:
            requests: The method's name and arguments.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        replies: dict[Worker, Any] = {}
        while missing := [worker for worker in requests if worker not in replies]:
            for worker in missing:
                worker.send(*requests[worker])
            replies |= self.receive(missing)
            for worker in missing:
                if worker not in replies:
                    self.replace(worker)
        return replies

    def receive(self, workers: Iterable[Worker]) -> dict[Worker, Any]:
        """Returns the replies of the workers that are not lost, or raises the first failure."""
        replies = {}
        for worker in workers:
            with contextlib.suppress(WorkerLostError):
                replies[worker] = worker.receive()
        for worker, reply in replies.items():
            if isinstance(reply, Failure):
                raise error_from(reply, worker)
        return replies

    def replace(self, worker: Worker) -> Any:
        """Starts a lost worker anew, with new episodes if there were any; returns its spaces."""
        while True:
            worker.deaths += 1
            if worker.deaths == _DEATHS:
                worker.deaths = 0
                raise WorkerError(
                    f"expected a step between deaths, got {_DEATHS} deaths in a row: {worker} {worker.fate}; "
                    "step these environments in a DummyVecEnv to see why, or raise the timeout."
                )
            self.replacements += 1
            warnings.warn(
                f"{worker} {worker.fate}; it is replaced, and their episodes are truncated.",
                RuntimeWarning,
                stacklevel=3,
            )
            with contextlib.suppress(WorkerLostError):
                try:
                    return self._start_anew(worker)
                except WorkerError:
                    worker.stop()  # half ready it would be of no use, so that the next call replaces it again
                    raise

    def _start_anew(self, worker: Worker) -> Any:
        worker.start()
        spaces = _checked(worker)
        if self._arrays is not None:
            self._attach(worker)
            _checked(worker)
        if self.first_seeds is not None:
            seeds = _seeds_after(part(self.first_seeds, worker), worker.starts)
            worker.send("reset", self.next_slot, seeds, [{}] * len(seeds))
            self.reset_infos[worker.rows.start : worker.rows.stop] = _checked(worker)
            worker.cut_short = True
        return spaces

    def _attach(self, worker: Worker) -> None:
        worker.send("attach", len(self.reset_infos), descriptor=self.arrays.descriptor)

    def cut(self, worker: Worker) -> list[dict[str, Any]]:
        """Writes the transitions of a replaced worker and returns their infos; `WorkerVecEnv` says why so."""
        rows = slice(worker.rows.start, worker.rows.stop)
        self.arrays.rewards[rows], self.arrays.dones[rows] = 0.0, True
        worker.cut_short = False
        return [
            {
                "TimeLimit.truncated": True,
                "terminal_observation": row(self.observations, index),
                "worker_replaced": True,
            }
            for index in worker.rows
        ]

    @contextlib.contextmanager
    def delivery(self) -> Iterator[None]:
        """Ends the workers if a step's or reset's results cannot reach the caller, after Ctrl-C say.

        Environments that have moved on unseen would join two steps into one transition.
        """
        try:
            yield
        except WorkerError:
            raise  # the environments can still be looked at
        except BaseException:
            for worker in self.workers:
                worker.hang_up()
            for worker in self.workers:
                worker.stop()
            raise

    def take_states(self) -> Plain:
        """Returns the environments' states and what this keeps between steps, for `take_vec_state`.

        Raises:
            StateUnavailableError: If an environment cannot give its state.
            WorkerError: If an environment raises, or a worker dies three times.
        """
        replies = self.ask({worker: ("take_states",) for worker in self.workers})
        for reply in replies.values():
            if isinstance(reply, StateUnavailableError):
                raise reply
        observations = [
            [array.copy() for array in self.arrays.observations[slot].values()]
            for slot in (self.slot, self.next_slot)
        ]
        cut_short = [worker.cut_short for worker in self.workers]
        return {
            "environments": [state for worker in self.workers for state in replies[worker][0]],
            "observations": observations[0],
            "workers": {
                "sizes": [len(worker.rows) for worker in self.workers],
                "generators": [replies[worker][1] for worker in self.workers],
                "cut_short": cut_short,
                "first_observations": observations[1] if any(cut_short) else None,  # after the cut
                "first_seeds": to_plain(self.first_seeds),
                "starts": max(worker.starts for worker in self.workers),
                "replacements": self.replacements,
            },
        }

    def restore_states(self, kept: Plain) -> None:
        """Puts the environments and this into a state of `take_states`, for `restore_vec_state`.

        Raises:
            StateUnavailableError: See `check_unbound`, unless the workers are divided alike.
            ValueError: If the state is of other environments.
            WorkerError: If an environment raises, or a worker dies three times.
        """
        workers = kept["workers"]
        generators, cut_short = [None] * len(self.workers), [False] * len(self.workers)
        if workers is not None and workers["sizes"] == [len(worker.rows) for worker in self.workers]:
            generators, cut_short = workers["generators"], workers["cut_short"]
        else:
            check_unbound(kept)
        states = kept["environments"]
        replies = self.ask(
            {
                worker: ("restore_states", part(states, worker), generator)
                for worker, generator in zip(self.workers, generators, strict=True)
            }
        )
        for reply in replies.values():
            if reply is not None:
                raise reply
        self._write(self.slot, kept["observations"])
        if any(cut_short):
            self._write(self.next_slot, workers["first_observations"])
        # Without workers an environment knows its last seed itself.
        self.first_seeds = [state["layers"][-1]["np_random_seed"] for state in states]
        for worker, cut in zip(self.workers, cut_short, strict=True):
            worker.cut_short = cut
        if workers is not None:
            self.first_seeds, self.replacements = from_plain(workers["first_seeds"]), workers["replacements"]
            for worker in self.workers:  # so that a replacement's seeds are still no earlier one's
                worker.starts = max(worker.starts, workers["starts"])

    def _write(self, slot: int, observations: Sequence[np.ndarray]) -> None:
        for array, value in zip(self.arrays.observations[slot].values(), observations, strict=True):
            array[...] = value


def check_unbound(kept: Plain) -> None:
    """Checks that a state of environments does not depend on which workers they were in.

    Args:
        kept: Of `Crew.take_states`, or the like of environments in one process.

    Raises:
        StateUnavailableError: If environments drew from the global generators of their worker, or if a
            replaced worker's episodes were still to be reported.
    """
    workers = kept["workers"]
    if workers is None or not (
        any(workers["cut_short"]) or any(each is not None for each in workers["generators"])
    ):
        return
    raise StateUnavailableError(
        "expected environments that draw from their own np_random only, and no worker just replaced, got a "
        f"state that belongs to workers of {workers['sizes']} environments; make as many of as many."
    )


def part(values: Any, worker: Worker) -> Any:
    """Returns a worker's share of values, one an environment."""
    return values[worker.rows.start : worker.rows.stop]


def _seeds_after(seeds: Sequence[int | None], starts: int) -> list[int | None]:
    """Returns seeds that no start before had, the same in every run; None stays None."""
    return [
        None if seed is None else int(np.random.SeedSequence(seed, spawn_key=(starts,)).generate_state(1)[0])
        for seed in seeds
    ]


def _checked(worker: Worker) -> Any:
    """Returns a worker's reply, or raises its failure."""
    reply = worker.receive()
    if isinstance(reply, Failure):
        raise error_from(reply, worker)
    return reply
