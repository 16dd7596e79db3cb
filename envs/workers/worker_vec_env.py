"""A vector environment whose environments run in worker processes, a block in each."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from envs.cores import usable_cores
from envs.observations import copied
from envs.state.plain_data import Plain
from envs.workers.infos import pack, unpack
from envs.workers.worker import Worker
from envs.workers.worker_error import WorkerError
from envs.workers.worker_pool import Crew, part


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
    this worker's starts. Three deaths of one worker without a step between them raise.

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
        n_workers = len(usable_cores()) if n_workers is None else n_workers
        if not env_fns or n_workers < 1 or (timeout is not None and timeout <= 0):
            raise ValueError(
                f"expected environments, n_workers >= 1 and timeout > 0, got {len(env_fns)} environments, "
                f"n_workers={n_workers} and timeout={timeout}; None is the default number and no timeout."
            )
        self._crew = Crew(env_fns, n_workers, timeout)
        self._stepping = False
        super().__init__(len(env_fns), self._crew.observation_space, self._crew.action_space)
        self.metadata = self._crew.metadata
        self.reset_infos = self._crew.reset_infos

    @property
    def replacements(self) -> int:
        """How many processes were started in the place of a lost one."""
        return self._crew.replacements

    def reset(self) -> VecEnvObs:
        """Resets every environment, with the seeds and options set before, which are used once.

        Returns:
            The first observations (n_envs, ...), or a dict or tuple of such; `reset_infos` has the infos.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        self._check_open()
        crew = self._crew
        if self._stepping:
            self.step_wait()
        if crew.first_seeds is None or self._seeds[0] is not None:
            crew.first_seeds = list(self._seeds)
        with crew.delivery():
            replies = crew.ask(
                {
                    worker: (
                        "reset",
                        crew.next_slot,
                        part(self._seeds, worker),
                        part(self._options, worker),
                    )
                    for worker in crew.workers
                }
            )
            crew.reset_infos[:] = [info for worker in crew.workers for info in replies[worker]]
            for worker in crew.workers:
                worker.cut_short = False
            crew.turn()
        self._reset_seeds()
        self._reset_options()
        return copied(crew.observations)

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
        crew = self._crew
        if crew.first_seeds is None:
            raise WorkerError("expected reset() before the first step, got none; call it.")
        actions = np.asarray(actions)
        if actions.shape[:1] != (self.num_envs,):
            raise ValueError(
                f"expected actions of shape ({self.num_envs}, ...), got {actions.shape}; "
                "pass one for each environment."
            )
        shared = crew.arrays.actions
        fits = shared is not None and (shared.shape, shared.dtype) == (actions.shape, actions.dtype)
        if shared is not None and fits:
            shared[...] = actions
        for worker in crew.workers:
            if worker.cut_short:
                continue
            if fits:
                worker.send_step(crew.next_slot)
            else:
                worker.send("step", crew.next_slot, part(actions, worker))
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
        crew = self._crew
        infos: list[dict[str, Any]] = []
        with crew.delivery():
            replies = crew.receive([worker for worker in crew.workers if not worker.cut_short])
            for worker in crew.workers:
                if worker in replies:
                    worker.deaths = 0
                    packed, reset_infos = replies[worker] or (_nothing_to_tell(worker), {})
                    infos += unpack(packed)
                    for index, info in reset_infos.items():
                        self.reset_infos[index] = info
                else:
                    if not worker.cut_short:
                        crew.replace(worker)
                    infos += crew.cut(worker)
            crew.turn()
        rewards, dones = crew.arrays.rewards.copy(), crew.arrays.dones.copy()
        return copied(crew.observations), rewards, dones, infos

    def close(self) -> None:
        """Closes the environments and ends the workers; those that do not end by themselves are killed."""
        self._crew.close()
        self._stepping = False

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
        """Returns the environments' states and what the workers keep, see `Crew.take_states`.

        Raises:
            WorkerError: If a step is pending, besides.
        """
        self._check_idle()
        return self._crew.take_states()

    def restore_states(self, kept: Plain) -> None:
        """Puts the environments and the workers into a state of `take_states`, see `Crew.restore_states`.

        Raises:
            WorkerError: If a step is pending, besides.
        """
        self._check_idle()
        self._crew.restore_states(kept)

    def _call(self, function: Callable[[gym.Env], Any], indices: VecEnvIndices) -> list[Any]:
        self._check_idle()
        targets = [range(self.num_envs)[index] for index in self._get_indices(indices)]
        requests: dict[Worker, tuple[Any, ...]] = {}
        for worker in self._crew.workers:
            if own := [index for index in targets if index in worker.rows]:
                requests[worker] = ("call", function, own)
        replies = {worker: iter(results) for worker, results in self._crew.ask(requests).items()}
        return [next(results) for i in targets for worker, results in replies.items() if i in worker.rows]

    def _check_open(self) -> None:
        if not self._crew.alive:
            raise WorkerError("expected an open vector environment, got a closed one; make another.")

    def _check_idle(self) -> None:
        self._check_open()
        if self._stepping:
            raise WorkerError("expected no pending step, got one; call step_wait() first.")


def _nothing_to_tell(worker: Worker) -> Any:
    return pack([{"TimeLimit.truncated": False} for _ in worker.rows])
