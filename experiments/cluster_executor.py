"""The trials of a search as tasks of the cluster."""

from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from experiments.cluster_process import reason_of

STOP_TIMEOUT = 10.0  # seconds


class ClusterExecutor(Executor):
    """Submit functions to the cluster.

    Args:
        options: Ray's options of a task.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = options
        self._refs: list[ray.ObjectRef[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Return the result of a function as a future, which raises `BrokenExecutor` if its nodes died."""
        ref = ray.remote(fn).options(**self._options).remote(*args, **kwargs)
        self._refs.append(ref)
        future: Future = Future()

        def settle(done: Future) -> None:
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            elif isinstance(error, RayError) and not isinstance(error, RayTaskError):
                future.set_exception(BrokenExecutor(reason_of(error)))
            else:
                future.set_exception(error)

        ref.future().add_done_callback(settle)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the tasks, or end them."""
        if cancel_futures:
            for ref in self._refs:
                ray.cancel(ref, force=True)
        if wait and self._refs:
            ray.wait(
                self._refs, num_returns=len(self._refs), timeout=STOP_TIMEOUT if cancel_futures else None
            )
        self._refs = []
