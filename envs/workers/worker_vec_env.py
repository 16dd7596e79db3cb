"""A vector environment whose environments run in worker processes, one block per process."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from envs.cores import current_core, usable_cores
from envs.observations import copy_observations
from envs.state.plain_data import Plain
from envs.workers.infos import unpack
from envs.workers.pool_state import restore_pool_state, take_pool_state
from envs.workers.worker import TIMEOUT, Worker
from envs.workers.worker_error import WorkerError
from envs.workers.worker_pool import WorkerPool
from envs.workers.worker_process import call_method


class WorkerVecEnv(VecEnv):
    """Step blocks of environments in worker processes, with results bitwise equal to `DummyVecEnv`'s.

    Each worker has a contiguous block of environments, and is woken once per step by one byte. Actions,
    observations, rewards and dones are in shared memory; only infos are pickled. Workers are single-threaded.

    **A worker that dies, or does not answer within the timeout, is replaced**, with a warning, and counted
    in `replacements`. The outcome of that step's action is unknown, so the transition does not contain it:
    it has reward 0, done, ``"TimeLimit.truncated"``, and as ``"terminal_observation"`` the observation that
    the learner acted on, so that returns are bootstrapped from the last observed state. As at the end of any
    episode, the observation is the first of a new episode. Such an info has ``"worker_replaced": True``, and
    no ``"episode"``, since a return cut off by a crash is not a sample of the return. So each step still has
    exactly one transition per environment. A worker lost between steps is replaced at the next call, which
    is repeated on the replacement; the next step then has the transition described above. New environments
    are built from scratch (what `set_attr` had set is lost), with seeds of their own that are the same in
    every run. The third death of a worker without a step in between raises WorkerError.

    An exception in an environment does not replace its worker: it is raised here. Ctrl-C during a step
    or a reset ends the workers, since the results are lost; a later step continues with new workers.
    Processes and memory are freed by `close`, when the object is collected, and when this process ends.

    Args:
        env_fns: One function per environment; cloudpickle must be able to pickle them, so lambdas work.
        n_workers: The number of workers, at most one per environment; None for the number of usable cores.
        timeout: Seconds that one reset or step of one environment may take, None for no limit; building a
            worker's block may take this long per environment. Each worker's time is counted separately.

    Raises:
        NotImplementedError: On a system without ``fork``, e.g. Windows.
        ValueError: If there is no environment, or `n_workers` or `timeout` is not positive.
        WorkerError: If an environment cannot be built; the message has its index and traceback.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        *,
        n_workers: int | None = None,
        timeout: float | None = TIMEOUT,
    ) -> None:
        n_workers = len(usable_cores()) if n_workers is None else n_workers
        if not env_fns or n_workers < 1 or (timeout is not None and timeout <= 0):
            raise ValueError(
                f"expected environments, n_workers >= 1 and timeout > 0, got {len(env_fns)} environments, "
                f"n_workers={n_workers} and timeout={timeout}; None is the default number and no timeout."
            )
        self._pool = WorkerPool(env_fns, n_workers, timeout)
        self._stepping = False
        super().__init__(len(env_fns), self._pool.observation_space, self._pool.action_space)
        self.metadata = self._pool.metadata
        self.reset_infos = self._pool.reset_infos

    @property
    def replacements(self) -> int:
        """How many processes were started to replace lost ones."""
        return self._pool.replacements

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options that were set before; these are used only once.

        Returns:
            The first observations (n_envs, ...), or a dict or tuple of them; `reset_infos` has the infos.

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        self._check_open()
        pool = self._pool
        if self._stepping:
            self.step_wait()
        if pool.first_seeds is None or self._seeds[0] is not None:
            pool.first_seeds = list(self._seeds)
        seeds, options = self._seeds, self._options
        with pool.abort_on_interrupt():
            replies = pool.ask(
                {
                    worker: ("reset", pool.next_buffer, worker.select(seeds), worker.select(options))
                    for worker in pool.workers
                }
            )
            pool.reset_infos[:] = [info for worker in pool.workers for info in replies[worker]]
            for worker in pool.workers:
                worker.truncation_pending = False
            pool.swap_buffers()
        self._reset_seeds()
        self._reset_options()
        return copy_observations(pool.observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Wake every worker for a step.

        Args:
            actions: (n_envs, ...). If they have the action space's shape and dtype, they go through shared
                memory; otherwise they are pickled. Either way they reach the environments unchanged.

        Raises:
            WorkerError: If a step is pending, the environments were never reset, or they are closed.
            ValueError: If there is not one action per environment.
        """
        self._check_idle()
        pool = self._pool
        if pool.first_seeds is None:
            raise WorkerError("the environments were never reset; call reset() before the first step")
        shared = pool.arrays.actions
        if shared is not None:  # otherwise actions may be tuples of arrays
            actions = np.asarray(actions)
        shape = (len(actions),) if shared is None else actions.shape
        if shape[:1] != (self.num_envs,):
            raise ValueError(f"expected actions of shape ({self.num_envs}, ...), got {shape}; pass one each.")
        fits = shared is not None and (shared.shape, shared.dtype) == (actions.shape, actions.dtype)
        if shared is not None and fits:
            shared[...] = actions
        here = current_core()
        # A worker on this core may run at once in the place of this process, so it is woken last.
        for worker in sorted(pool.workers, key=lambda worker: worker.core == here):
            if worker.truncation_pending:
                continue
            if fits:
                worker.send_step(pool.next_buffer)
            else:
                worker.send("step", pool.next_buffer, worker.select(actions))
        self._stepping = True

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step; environments whose episode has ended are reset.

        Returns:
            Observations (n_envs, ...), float32 rewards (n_envs,), dones (n_envs,) and the infos, none of
            which a later step overwrites. The class describes those of a worker that died.

        Raises:
            WorkerError: If an environment raises, a worker dies three times, or no step is pending.
        """
        self._check_open()
        if not self._stepping:
            raise WorkerError("no step is pending; call step_async() before step_wait(), or step()")
        self._stepping = False
        pool = self._pool
        infos: list[dict[str, Any]] = []
        with pool.abort_on_interrupt():
            stepped = [worker for worker in pool.workers if not worker.truncation_pending]
            replies = pool.receive(stepped)
            for worker in replies:
                worker.deaths = 0
            pool.replace([worker for worker in stepped if worker not in replies])
            for worker in pool.workers:
                if worker in replies:
                    packed, reset_infos = replies[worker] or (None, {})
                    infos += (
                        unpack(packed) if packed else [{"TimeLimit.truncated": False} for _ in worker.rows]
                    )
                    for index, info in reset_infos.items():
                        self.reset_infos[index] = info
                else:
                    infos += pool.truncate(worker)
            pool.swap_buffers()
        rewards, dones = pool.arrays.rewards.copy(), pool.arrays.dones.copy()
        return copy_observations(pool.observations), rewards, dones, infos

    def close(self) -> None:
        """Close the environments and end the workers; kill those that do not exit by themselves."""
        self._pool.close()
        self._stepping = False

    def has_attr(self, attr_name: str) -> bool:
        """Return whether all environments have an attribute."""
        return all(self.env_method("has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment (see `VecEnv.get_attr`).

        Raises:
            WorkerAttributeError: If an environment lacks the attribute.
        """
        return self._call(lambda env: env.get_wrapper_attr(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment where `get_attr` reads it; replaced workers lose it."""
        self._call(lambda env: env.set_wrapper_attr(attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment and return the results (see `VecEnv.env_method`).

        Raises:
            WorkerError: If an environment raises, or a worker dies three times.
        """
        return self._call(partial(call_method, method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return whether each environment has a wrapper (see `VecEnv.env_is_wrapped`)."""
        return self._call(lambda env: is_wrapped(env, wrapper_class), indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame (height, width, 3) per environment, or None if there is no ``"rgb_array"`` mode."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"no images: render_mode is {self.render_mode!r}, not 'rgb_array'", stacklevel=2)
            return [None] * self.num_envs
        return self._call(lambda env: env.render(), None)

    def get_state(self) -> Plain:
        """Return the state of the environments and of the workers (see `take_pool_state`)."""
        self._check_idle()
        return take_pool_state(self._pool)

    def set_state(self, state: Plain) -> None:
        """Restore a state that `get_state` returned (see `restore_pool_state`)."""
        self._check_idle()
        restore_pool_state(self._pool, state)

    def _call(self, function: Callable[[gym.Env], Any], indices: VecEnvIndices) -> list[Any]:
        self._check_idle()
        targets = [range(self.num_envs)[index] for index in self._get_indices(indices)]
        requests: dict[Worker, tuple[Any, ...]] = {}
        for worker in self._pool.workers:
            if own := [index for index in targets if index in worker.rows]:
                requests[worker] = ("call", function, own)
        replies = {worker: iter(results) for worker, results in self._pool.ask(requests).items()}
        return [next(results) for i in targets for worker, results in replies.items() if i in worker.rows]

    def _check_open(self) -> None:
        if not self._pool.is_open:
            raise WorkerError("the vector environment is closed; create another one")

    def _check_idle(self) -> None:
        self._check_open()
        if self._stepping:
            raise WorkerError("there is a pending step; call step_wait() first")
