"""The process of one run, on this machine or on a node of a cluster."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol


class RunProcess(Protocol):
    """What a grid uses of a process; `subprocess.Popen` has it."""

    @property
    def returncode(self) -> int | None:
        """The exit code; None while `poll` and `wait` have not seen the end."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code; raise `subprocess.TimeoutExpired` at the timeout."""

    def send_signal(self, sig: int) -> None:
        """Request a stop."""

    def kill(self) -> None:
        """End the process at once."""


def start_process(
    command: Sequence[str], log: Path, preexec: Callable[[], object] | None = None
) -> subprocess.Popen:
    """Start a run in its own session, so that the terminal's Ctrl-C does not reach it; it uses one thread.

    Args:
        command: its command line.
        log: file for its output.
        preexec: called in the new process first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # the packages of this process
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            start_new_session=True,
            preexec_fn=preexec,
        )
