"""Exceptions that workers cause in the training process."""

from envs.workers.worker_process import Failure


class WorkerError(RuntimeError):
    """Raised when an environment raises in its worker, or when a worker cannot be kept running.

    Attributes:
        env_index: The environment that raised; None if no single environment did.
    """

    def __init__(self, message: str, env_index: int | None = None) -> None:
        super().__init__(message)
        self.env_index = env_index


class WorkerAttributeError(WorkerError, AttributeError):
    """Raised when an environment lacks an attribute; `VecEnv.has_attr` expects an AttributeError."""


def make_error(failure: Failure, worker: object) -> WorkerError:
    """Return the exception for a failure; it names `worker` if no single environment raised."""
    where = worker if failure.env_index is None else f"environment {failure.env_index}"
    kind = WorkerAttributeError if failure.is_attribute_error else WorkerError
    return kind(
        f"{where} raised {failure.error}; the traceback in the worker:\n\n{failure.traceback}",
        failure.env_index,
    )
