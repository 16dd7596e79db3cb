"""Errors that end a program: of a setup, before it has begun, and of environments, after it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.rollout.finite import NonFiniteError
from envs.errors import InvalidResultError
from envs.workers.worker_error import WorkerError

# What invalid settings raise, here, in SB3 or in a user's policy, before training starts.
SETUP_ERRORS = (ValueError, TypeError, AssertionError, ImportError, OSError, NotImplementedError)


@contextmanager
def setup_errors(source: Path | str) -> Iterator[None]:
    """Raise ValueError for whatever settings raise that no environment or agent can be built of."""
    try:
        yield
    except SETUP_ERRORS:
        raise
    except Exception as error:
        raise ValueError(
            f"{source} describes a run that cannot be built ({type(error).__name__}: {error})"
        ) from error


def notes_of(error: BaseException) -> list[str]:
    """Return what `CheckedEnv` noted about an exception of an environment."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("raised by ")]


def is_of_environment(error: BaseException) -> bool:
    """Return whether an environment raised an exception, or returned what it must not."""
    return isinstance(error, InvalidResultError | WorkerError) or bool(notes_of(error))


def describe_failure(error: BaseException, when: str) -> str:
    """Return the message for an exception: its traceback, and a last line with what, where and when.

    Bad numbers, and errors of the system such as a full disk, have no traceback, since no code is at fault.

    Args:
        error: the exception.
        when: e.g. "in the evaluation".
    """
    expected = isinstance(error, NonFiniteError | OSError | WorkerError) and not notes_of(error)
    if expected:
        return f"error: {error}"
    where = "; ".join(["", *notes_of(error)])
    lines = "".join(traceback.format_exception(error))
    return f"{lines}error: {when}, {type(error).__name__}: {error}{where}"
