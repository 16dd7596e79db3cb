"""Describe the errors that end a program, whether they occur during its setup or later."""

import errno
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

import agents
import envs
import npg
from agents.policy.masks import MaskError
from agents.ranks import RankError
from agents.rollout.costs import CostError
from agents.rollout.finite import NonFiniteError
from envs.errors import InvalidResultError
from envs.state.environment_state import class_name
from envs.workers.worker_error import WorkerError
from experiments.settings.class_list import is_library

# Exceptions that invalid settings raise before training starts, here, in SB3 or in a user's policy.
SETUP_ERRORS = (ValueError, TypeError, AssertionError, ImportError, OSError, NotImplementedError)
OURS = (Path(__file__).parent, *(Path(package.__path__[0]) for package in (npg, agents, envs)))
FOLDERS = ("stdlib", "platstdlib", "purelib", "platlib")
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in FOLDERS)
PARTS = (gym.Env, VecEnvWrapper, BaseCallback)  # what settings name; gym.Wrapper is a gym.Env


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


def innermost(error: BaseException) -> tuple[object, str] | None:
    """Return the environment, wrapper or callback that raised an exception, and its method; or None."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if any(map(Path(frame.f_code.co_filename).is_relative_to, OURS)):
            return None
        owner = frame.f_locals.get("self")
        if isinstance(owner, PARTS):
            return owner, frame.f_code.co_name
    return None


def notes_of(error: BaseException) -> list[str]:
    """Return who raised an exception: the notes of `CheckedEnv`, or else the `innermost` class and method."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("raised by ")]
    if not notes and (found := innermost(error)) is not None:
        notes.append(f"raised by {found[1]}() of {class_name(found[0])}")
    return notes


def is_of_environment(error: BaseException) -> bool:
    """Return whether an environment, wrapper or callback raised it in use, or gave an invalid result."""
    if isinstance(error, InvalidResultError | WorkerError):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    made = (frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "__init__")
    return bool(notes_of(error)) and not any(isinstance(owner, PARTS) for owner in made)


def raised_at(error: BaseException | None) -> str:
    """Return file, line and class if a user's own code raised an exception or its cause; or ""."""
    while (
        error is not None and getattr(error, "errno", None) != errno.ENOSPC
    ):  # a full disk is not the user's code's fault
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            path = Path(frame.filename)
            if any(map(path.is_relative_to, OURS)):
                break
            if path.is_absolute() and not any(map(path.is_relative_to, LIBRARIES)):  # e.g. not <frozen …>
                owner = innermost(error)
                within = "" if owner is None else f", in {owner[1]}() of {class_name(owner[0])}"
                return f"; raised at {frame.filename}:{frame.lineno}{within}"
        error = error.__cause__
    return ""


def describe_failure(error: BaseException, when: str) -> str:
    """Return the message for an exception: its traceback, and a last line that says what, where and when.

    NaN and infinity, wrong masks and costs, other invalid results of environments, lost workers and ranks,
    system errors such as a full disk, and errors of Gymnasium's and SB3's wrappers, which come from the
    arguments in the settings, have no traceback, unless a user's own code raised them.

    Args:
        error: the exception.
        when: when it was raised, e.g. "in the evaluation".
    """
    known = NonFiniteError | MaskError | CostError | OSError | RankError | WorkerError | InvalidResultError
    at, owner = raised_at(error), innermost(error)
    if isinstance(error, known) and not at:
        return f"error: {error}"
    line = "; ".join([f"error: {when}, {type(error).__name__}: {error}", *notes_of(error)])
    if owner is not None and is_library(type(owner[0]).__module__) and not at:
        return line
    return "".join(traceback.format_exception(error)) + line
