"""The process of a run on a node of the cluster."""

import signal
import subprocess
from pathlib import Path

import ray
from ray.exceptions import RayError, TaskCancelledError


def reason_of(error: RayError) -> str:
    """Return why Ray could not complete a task, on one line."""
    cause = getattr(error, "cause", None) or error  # of a RayTaskError
    lines = str(cause).strip().splitlines() or ["no reason given"]
    return f"{type(cause).__name__}: {lines[-1] if cause is not error else lines[0]}"


class ClusterProcess:
    """A `RunProcess` that is a task of Ray.

    Args:
        ref: the task's result, which is the exit code of the run's process.
        log: file with the output of the process.
    """

    def __init__(self, ref: "ray.ObjectRef[int]", log: Path):
        self.returncode: int | None = None
        self._ref = ref
        self._log = log

    def poll(self) -> int | None:
        """Return the exit code, or None while the task waits for a node or runs."""
        if self.returncode is None and ray.wait([self._ref], timeout=0)[0]:
            self.returncode = self._result()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code; raise `subprocess.TimeoutExpired` at the timeout."""
        if self.returncode is None:
            if not ray.wait([self._ref], timeout=timeout)[0]:
                raise subprocess.TimeoutExpired("a task of the cluster", timeout or 0.0)
            self.returncode = self._result()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Request a stop: cancel a task that waits for a node; let one that runs send SIGTERM to the run."""
        ray.cancel(self._ref)

    def kill(self) -> None:
        """End the task's process, with which the run ends."""
        ray.cancel(self._ref, force=True)

    def _result(self) -> int:
        try:
            return ray.get(self._ref)
        except TaskCancelledError:
            return 128 + signal.SIGTERM
        except RayError as error:
            self._log.parent.mkdir(parents=True, exist_ok=True)  # the task may never have started
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"\nerror: {reason_of(error)}\n")
            return 1
