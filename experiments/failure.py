"""Describe the errors that end a program, whether they occur during its setup or later."""

import errno
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import agents
import envs
import npg
from agents.policy.masks import MaskError
from agents.ranks import RankError
from agents.rollout.costs import CostError
from agents.rollout.finite import NonFiniteError
from envs.errors import InvalidResultError
from envs.workers.worker_error import WorkerError

# Exceptions that invalid settings raise before training starts, here, in SB3 or in a user's policy.
SETUP_ERRORS = (ValueError, TypeError, AssertionError, ImportError, OSError, NotImplementedError)
OURS = (Path(__file__).parent, *(Path(package.__path__[0]) for package in (npg, agents, envs)))
FOLDERS = ("stdlib", "platstdlib", "purelib", "platlib")
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in FOLDERS)


@contextmanager
def setup_errors(source: Path | str) -> Iterator[None]:
    """Raise ValueError in place of any exception of the block that is not one of `SETUP_ERRORS`.

    Args:
        source: where the settings come from, e.g. config.yaml; for the message.
    """
    try:
        yield
    except SETUP_ERRORS:
        raise
    except InvalidResultError as error:  # which names the environment and the remedy
        raise ValueError(str(error)) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{source} describes a run that cannot be built ({type(error).__name__}: {error})"
        ) from error


def notes_of(error: BaseException) -> list[str]:
    """Return the notes that `CheckedEnv` added to an environment's exception."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("raised by ")]


def is_of_environment(error: BaseException) -> bool:
    """Return whether an environment raised the exception, or caused it by an invalid result."""
    return isinstance(error, InvalidResultError | WorkerError) or bool(notes_of(error))


def raised_at(error: BaseException | None) -> str:
    """Return a clause with file and line if a user's own code raised an exception or its cause, or ""."""
    while (
        error is not None and getattr(error, "errno", None) != errno.ENOSPC
    ):  # a full disk is not the user's code's fault
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            path = Path(frame.filename)
            if any(map(path.is_relative_to, OURS)):
                break
            if path.is_absolute() and not any(map(path.is_relative_to, LIBRARIES)):  # e.g. not <frozen …>
                return f"; raised at {frame.filename}:{frame.lineno}"
        error = error.__cause__
    return ""


def describe_failure(error: BaseException, when: str) -> str:
    """Return the message for an exception: its traceback, and a last line that says what, where and when.

    NaN and infinity, wrong masks and costs, other invalid results of environments, lost workers and ranks,
    and system errors such as a full disk have no traceback, unless a user's own code raised them.

    Args:
        error: the exception.
        when: when it was raised, e.g. "in the evaluation".
    """
    known = NonFiniteError | MaskError | CostError | OSError | RankError | WorkerError | InvalidResultError
    if isinstance(error, known) and not raised_at(error):
        return f"error: {error}"
    where = "; ".join(["", *notes_of(error)])
    lines = "".join(traceback.format_exception(error))
    return f"{lines}error: {when}, {type(error).__name__}: {error}{where}"
