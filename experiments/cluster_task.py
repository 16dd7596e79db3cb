"""What a task of the cluster does on its node. Nothing here imports torch, since Ray keeps its processes."""

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.run_process import start_process

POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds that a stopped run has for saving its model
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def storage_problem(token: Path) -> str | None:
    """Return why this node does not share the command's storage, or None.

    Args:
        token: a file of the command in --out; its content is its name.
    """
    try:
        if token.read_text(encoding="utf-8") != token.name:
            return f"{token} has other content there"
        with tempfile.TemporaryFile(dir=token.parent):
            return None
    except OSError as error:
        return str(error)


def run_command(command: Sequence[str], log: Path, token: Path) -> int:
    """Make a run in a process of its own, and return its exit code.

    At a KeyboardInterrupt, which is Ray's request to stop, let the run save a checkpoint.

    Args:
        command: the run's command line, for this node's Python.
        log: file for the output of the run.
        token: see `storage_problem`; a node may have joined the cluster after the command checked all nodes.
    """
    if (problem := storage_problem(token)) is not None:
        raise OSError(f"the node does not share the storage of --out: {problem}")
    process = start_process([sys.executable, *command[1:]], log, end_with_parent)
    try:
        try:
            while process.poll() is None:
                time.sleep(POLL)
        except KeyboardInterrupt:
            process.terminate()
            process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
    return process.wait()


def end_with_parent() -> None:
    """Let the kernel kill this process when Ray's process ends, since another node then makes the run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
