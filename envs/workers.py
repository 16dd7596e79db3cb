"""A vector environment whose environments run in worker processes, a block in each."""

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from envs.cores import usable_cores
from envs.environment_state import StateUnavailableError
from envs.infos import pack, unpack
from envs.observations import copied, row
from envs.plain_data import Plain, from_plain, to_plain
from envs.shared_memory import StepArrays
from envs.worker import Worker, WorkerLostError, close_all
from envs.worker_error import WorkerError, error_from
from envs.worker_process import Failure

_DEATHS = 3  # in a row, before a worker is given up


class WorkerVecEnv(VecEnv):
    """Steps blocks of environments in worker processes, with the results of `DummyVecEnv` to the bit.

    Each worker holds a contiguous block and is woken once a step, by one byte; actions, observations,
    rewards and dones lie in shared memory, only infos are pickled. Workers are single-threaded.

    **A worker that dies, or does not answer within the timeout, is replaced**, with a warning, and counted
    in `replacements`. The action of that step has no known outcome; its transition says so and no more:
    reward 0, done, ``"TimeLimit.truncated"``, and as ``"terminal_observation"`` the observation that the
    learner acted upon, so that returns are bootstrapped from where the episode was last seen. With it comes
    the first observation of a new episode, as at the end of any other. Such an info has ``"worker_replaced":
    True``, and no ``"episode"``: a return that a crash cut is no sample of the return. Each step thus still
    has exactly one transition an environment. Between steps a replacement happens at the next call, which is
    repeated on it; the next step's transition then tells of it likewise. The new environments are built anew
    (what `set_attr` had set is gone) and get seeds derived from the first ones and the number of
    replacements. Three deaths of one worker without a step between them raise.

    An exception in an environment does not replace its worker: it is raised here. Ctrl-C during a step
    or a reset ends the workers, as its outcome reached nobody; a later step goes on with new ones.

    Processes and memory are gone after `close`, when the object is collected, and when this process ends,
    however it ends. POSIX only.

    Args:
        env_fns: One an environment; cloudpickle must be able to pickle them, so lambdas are fine.
        n_workers: At most one an environment; None for as many as there are usable cores.
        timeout: Seconds that a worker may take to build, reset or step its block, None for any.

    Attributes:
        replacements: How many processes were started in the place of a lost one.

    Raises:
        ValueError: If there is no environment, or `n_workers` or `timeout` is not positive.
        WorkerError: If an environment cannot be built; with its index and traceback.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        *,
        n_workers: int | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        cores = usable_cores()
        n_workers = len(cores) if n_workers is None else n_workers
        if not env_fns or n_workers < 1 or (timeout is not None and timeout <= 0):
            raise ValueError(
                f"expected environments, n_workers >= 1 and timeout > 0, got {len(env_fns)} environments, "
                f"n_workers={n_workers} and timeout={timeout}; None is the default number and no timeout."
            )
        self.replacements = 0
        self._arrays: StepArrays | None = None  # until the spaces are known
        self._slot = 0  # of the two for observations: the one that the learner has seen
        self._stepping = False
        self._first_seeds: list[int | None] | None = None  # None until the first reset
        blocks = np.array_split(np.arange(len(env_fns)), min(n_workers, len(env_fns)))
        # With a worker a core each stays on its own: a scheduler that sees the parent wake them puts two on
        # one core, and the other waits.
        homes = cores if len(blocks) == len(cores) else [None] * len(blocks)
        self._workers = [
            Worker([env_fns[index] for index in block], int(block[0]), timeout, core)
            for block, core in zip(blocks, homes, strict=True)
        ]
        self._end = weakref.finalize(self, close_all, self._workers, os.getpid())
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for worker in self._workers:
            worker.start()
        replies = self._receive(self._workers)
        spaces = [replies[worker] if worker in replies else self._replace(worker) for worker in self._workers]
        observation_space, action_space, metadata = spaces[0]
        num_envs = self._workers[-1].rows.stop
        self._arrays = StepArrays(num_envs, observation_space, action_space)
        self._free = weakref.finalize(self, os.close, self._arrays.descriptor)
        self._observations = [dict_to_obs(observation_space, slot) for slot in self._arrays.observations]
        for worker in self._workers:
            self._attach(worker)
        replies = self._receive(self._workers)
        for worker in self._workers:
            if worker not in replies:
                self._replace(worker)
        super().__init__(num_envs, observation_space, action_space)
        self.metadata = metadata

    def reset(self) -> VecEnvObs:
        """Resets every environment, with the seeds and options set before, which are used once.

        Returns:
            The first observations (n_envs, ...), or a dict or tuple of such; `reset_infos` has the infos.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        self._check_open()
        if self._stepping:
            self.step_wait()
        if self._first_seeds is None or self._seeds[0] is not None:
            self._first_seeds = list(self._seeds)
        with self._delivery():
            replies = self._ask(
                {
                    worker: (
                        "reset",
                        1 - self._slot,
                        _part(self._seeds, worker),
                        _part(self._options, worker),
                    )
                    for worker in self._workers
                }
            )
            self.reset_infos = [info for worker in self._workers for info in replies[worker]]
            for worker in self._workers:
                worker.cut_short = False
            self._slot = 1 - self._slot
        self._reset_seeds()
        self._reset_options()
        return copied(self._observations[self._slot])

    def step_async(self, actions: np.ndarray) -> None:
        """Wakes every worker for a step.

        Args:
            actions: (n_envs, ...). In the action space's shape and dtype they go through shared memory;
                others reach the environments unchanged too, but pickled.

        Raises:
            WorkerError: If a step is pending, or before the first reset, or after `close`.
            ValueError: If there is not one action an environment.
        """
        self._check_idle()
        if self._first_seeds is None:
            raise WorkerError("expected reset() before the first step, got none; call it.")
        actions = np.asarray(actions)
        if actions.shape[:1] != (self.num_envs,):
            raise ValueError(
                f"expected actions of shape ({self.num_envs}, ...), got {actions.shape}; "
                "pass one for each environment."
            )
        assert self._arrays is not None
        shared = self._arrays.actions
        fits = shared is not None and (shared.shape, shared.dtype) == (actions.shape, actions.dtype)
        if shared is not None and fits:
            shared[...] = actions
        for worker in self._workers:
            if worker.cut_short:
                continue
            if fits:
                worker.send_step(1 - self._slot)
            else:
                worker.send("step", 1 - self._slot, _part(actions, worker))
        self._stepping = True

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step, and resets the environments whose episode ended.

        Returns:
            Observations (n_envs, ...), float32 rewards (n_envs,), dones (n_envs,) and the infos; all are
            the caller's to keep. For a worker that died see the class.

        Raises:
            WorkerError: If an environment raises, a worker dies three times, or no step is pending.
        """
        self._check_open()
        if not self._stepping:
            raise WorkerError("expected step_async() before step_wait(), got no pending step; call step().")
        self._stepping = False
        infos: list[dict[str, Any]] = []
        with self._delivery():
            replies = self._receive([worker for worker in self._workers if not worker.cut_short])
            for worker in self._workers:
                if worker in replies:
                    worker.deaths = 0
                    packed, reset_infos = replies[worker] or (_nothing_to_tell(worker), {})
                    infos += unpack(packed)
                    for index, info in reset_infos.items():
                        self.reset_infos[index] = info
                else:
                    if not worker.cut_short:
                        self._replace(worker)
                    infos += self._cut(worker)
            self._slot = 1 - self._slot
        assert self._arrays is not None
        rewards, dones = self._arrays.rewards.copy(), self._arrays.dones.copy()
        return copied(self._observations[self._slot]), rewards, dones, infos

    def close(self) -> None:
        """Closes the environments and ends the workers; those that do not end by themselves are killed."""
        self._end()
        self._stepping = False
        if self._arrays is not None:
            self._free()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of each environment, see `VecEnv.get_attr`.

        Raises:
            WorkerAttributeError: If an environment lacks it.
        """
        return self._call(lambda env: env.get_wrapper_attr(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of each environment, see `VecEnv.set_attr`; a replacement does not have it."""
        self._call(lambda env: setattr(env, attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of each environment and returns the results, see `VecEnv.env_method`.

        If the worker dies of it, it is called again on the replacement.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        return self._call(
            lambda env: env.get_wrapper_attr(method_name)(*method_args, **method_kwargs), indices
        )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Returns whether each environment has a wrapper, see `VecEnv.env_is_wrapped`."""
        return self._call(lambda env: is_wrapped(env, wrapper_class), indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Returns each environment's picture (height, width, 3), or None without ``"rgb_array"``."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"expected render_mode 'rgb_array', got {self.render_mode!r}: no images.", stacklevel=2
            )
            return [None] * self.num_envs
        return self._call(lambda env: env.render(), None)

    def take_states(self) -> Plain:
        """Returns the environments' states and what this keeps between steps, for `take_vec_state`.

        Raises:
            StateUnavailableError: If an environment cannot give its state.
            WorkerError: If a step is pending, an environment raises, or a worker dies three times.
        """
        self._check_idle()
        replies = self._ask({worker: ("take_states",) for worker in self._workers})
        for reply in replies.values():
            if isinstance(reply, StateUnavailableError):
                raise reply
        assert self._arrays is not None
        observations = [
            [array.copy() for array in self._arrays.observations[slot].values()]
            for slot in (self._slot, 1 - self._slot)
        ]
        cut_short = [worker.cut_short for worker in self._workers]
        return {
            "environments": [state for worker in self._workers for state in replies[worker][0]],
            "observations": observations[0],
            "workers": {
                "sizes": [len(worker.rows) for worker in self._workers],
                "generators": [replies[worker][1] for worker in self._workers],
                "cut_short": cut_short,
                "first_observations": observations[1] if any(cut_short) else None,  # after the cut
                "first_seeds": to_plain(self._first_seeds),
                "starts": max(worker.starts for worker in self._workers),
                "replacements": self.replacements,
            },
        }

    def restore_states(self, kept: Plain) -> None:
        """Puts the environments and this into a state of `take_states`, for `restore_vec_state`.

        Raises:
            StateUnavailableError: See `check_unbound`, unless the workers are divided alike.
            ValueError: If the state is of other environments.
            WorkerError: If a step is pending, an environment raises, or a worker dies three times.
        """
        self._check_idle()
        workers = kept["workers"]
        generators, cut_short = [None] * len(self._workers), [False] * len(self._workers)
        if workers is not None and workers["sizes"] == [len(worker.rows) for worker in self._workers]:
            generators, cut_short = workers["generators"], workers["cut_short"]
        else:
            check_unbound(kept)
        states = kept["environments"]
        replies = self._ask(
            {
                worker: ("restore_states", _part(states, worker), generator)
                for worker, generator in zip(self._workers, generators, strict=True)
            }
        )
        for reply in replies.values():
            if reply is not None:
                raise reply
        self._write(self._slot, kept["observations"])
        if any(cut_short):
            self._write(1 - self._slot, workers["first_observations"])
        # Without workers an environment knows its last seed itself.
        self._first_seeds = [state["layers"][-1]["np_random_seed"] for state in states]
        for worker, cut in zip(self._workers, cut_short, strict=True):
            worker.cut_short = cut
        if workers is not None:
            self._first_seeds, self.replacements = from_plain(workers["first_seeds"]), workers["replacements"]
            for worker in self._workers:  # so that a replacement's seeds are still no earlier one's
                worker.starts = max(worker.starts, workers["starts"])

    def _write(self, slot: int, observations: Sequence[np.ndarray]) -> None:
        assert self._arrays is not None
        for array, value in zip(self._arrays.observations[slot].values(), observations, strict=True):
            array[...] = value

    def _call(self, function: Callable[[gym.Env], Any], indices: VecEnvIndices) -> list[Any]:
        self._check_idle()
        targets = [range(self.num_envs)[index] for index in self._get_indices(indices)]
        requests: dict[Worker, tuple[Any, ...]] = {}
        for worker in self._workers:
            if own := [index for index in targets if index in worker.rows]:
                requests[worker] = ("call", function, own)
        replies = {worker: iter(results) for worker, results in self._ask(requests).items()}
        return [next(results) for i in targets for worker, results in replies.items() if i in worker.rows]

    def _ask(self, requests: dict[Worker, tuple[Any, ...]]) -> dict[Worker, Any]:
        """Returns what the workers reply; a lost one is replaced and asked again."""
        replies: dict[Worker, Any] = {}
        while missing := [worker for worker in requests if worker not in replies]:
            for worker in missing:
                worker.send(*requests[worker])
            replies |= self._receive(missing)
            for worker in missing:
                if worker not in replies:
                    self._replace(worker)
        return replies

    def _receive(self, workers: Iterable[Worker]) -> dict[Worker, Any]:
        """Returns the replies of the workers that are not lost, or raises the first failure."""
        replies = {}
        for worker in workers:
            with contextlib.suppress(WorkerLostError):
                replies[worker] = worker.receive()
        for worker, reply in replies.items():
            if isinstance(reply, Failure):
                raise error_from(reply, worker)
        return replies

    def _replace(self, worker: Worker) -> Any:
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
                worker.start()
                spaces = _checked(worker)
                if self._arrays is not None:
                    self._attach(worker)
                    _checked(worker)
                if self._first_seeds is not None:
                    seeds = _seeds_after(_part(self._first_seeds, worker), worker.starts)
                    worker.send("reset", 1 - self._slot, seeds, [{}] * len(seeds))
                    self.reset_infos[worker.rows.start : worker.rows.stop] = _checked(worker)
                    worker.cut_short = True
                return spaces

    def _attach(self, worker: Worker) -> None:
        assert self._arrays is not None
        worker.send("attach", self._workers[-1].rows.stop, descriptor=self._arrays.descriptor)

    def _cut(self, worker: Worker) -> list[dict[str, Any]]:
        """Writes the transitions of a replaced worker and returns their infos; the class says why so."""
        rows = slice(worker.rows.start, worker.rows.stop)
        assert self._arrays is not None
        self._arrays.rewards[rows], self._arrays.dones[rows] = 0.0, True
        worker.cut_short = False
        return [
            {
                "TimeLimit.truncated": True,
                "terminal_observation": row(self._observations[self._slot], index),
                "worker_replaced": True,
            }
            for index in worker.rows
        ]

    @contextlib.contextmanager
    def _delivery(self) -> Iterator[None]:
        """Ends the workers if a step's or reset's results cannot reach the caller, after Ctrl-C say.

        Environments that have moved on unseen would join two steps into one transition.
        """
        try:
            yield
        except WorkerError:
            raise  # the environments can still be looked at
        except BaseException:
            for worker in self._workers:
                worker.hang_up()
            for worker in self._workers:
                worker.stop()
            raise

    def _check_open(self) -> None:
        if not self._end.alive:
            raise WorkerError("expected an open vector environment, got a closed one; make another.")

    def _check_idle(self) -> None:
        self._check_open()
        if self._stepping:
            raise WorkerError("expected no pending step, got one; call step_wait() first.")


def check_unbound(kept: Plain) -> None:
    """Checks that a state of environments does not depend on which workers they were in.

    Args:
        kept: Of `WorkerVecEnv.take_states`, or the like of environments in one process.

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


def _part(values: Any, worker: Worker) -> Any:
    return values[worker.rows.start : worker.rows.stop]


def _seeds_after(seeds: Sequence[int | None], starts: int) -> list[int | None]:
    """Returns seeds that no start before had, the same in every run; None stays None."""
    return [
        None if seed is None else int(np.random.SeedSequence(seed, spawn_key=(starts,)).generate_state(1)[0])
        for seed in seeds
    ]


def _nothing_to_tell(worker: Worker) -> Any:
    return pack([{"TimeLimit.truncated": False} for _ in worker.rows])


def _checked(worker: Worker) -> Any:
    """Returns a worker's reply, or raises its failure."""
    reply = worker.receive()
    if isinstance(reply, Failure):
        raise error_from(reply, worker)
    return reply
