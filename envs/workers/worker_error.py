"""What a rollout worker can raise in the training process."""

from envs.workers.worker_process import Failure


class WorkerError(RuntimeError):
    """Raised when an environment raises in its worker, or when a worker cannot be kept alive.

    Attributes:
        env_index: Of the environment that raised, None if it was none in particular.
    """

    def __init__(self, message: str, env_index: int | None = None) -> None:
        super().__init__(message)
        self.env_index = env_index


class WorkerAttributeError(WorkerError, AttributeError):
    """Raised when an environment lacks an attribute; `VecEnv.has_attr` expects an AttributeError."""


def error_from(failure: Failure, worker: object) -> WorkerError:
    """Returns the exception that tells of a failure; `worker` is named if no environment is to blame."""
    where = worker if failure.env_index is None else f"environment {failure.env_index}"
    kind = WorkerAttributeError if failure.is_attribute_error else WorkerError
    return kind(
        f"expected an answer from {where}, got {failure.error}; "
        f"fix it where the worker's traceback points:\n\n{failure.traceback}",
        failure.env_index,
    )
