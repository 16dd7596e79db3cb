"""A worker, as seen by the training process."""

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym

from envs.workers.channel import Channel
from envs.workers.fork_server import ForkServer
from envs.workers.worker_process import pickle_job

TIMEOUT = 60.0  # default seconds that a reset or step may take (see `WorkerVecEnv`)
_STOP_TIMEOUT = 3.0  # seconds that a worker gets to close its environments


class WorkerLostError(Exception):
    """Raised when a worker has died, or has not answered in time; in either case its process has ended."""


class Worker:
    """A block of environments in a process, which `start` can replace by a new process.

    Requests and replies alternate. If a reply is not received because of a death, a timeout or Ctrl-C, the
    process is ended.

    Args:
        env_fns: One function per environment of the block.
        first: The index of the block's first environment in the vector environment.
        timeout: Seconds that one reset or step of one environment may take, None for no limit; building the
            block may take this long per environment.
        core: The core to run on, None for any.

    Attributes:
        rows: The indices of the block's environments in the vector environment.
        core: The core that the process is bound to, if any.
        starts: How many processes were started.
        deaths: How many processes were lost since the last completed step.
        truncation_pending: Whether the process was replaced since the learner last received transitions of
            this block.
        exit_reason: How the last process ended, for messages.
        begun: This block's rows of `StepArrays.begun`; None until they exist.
    """

    begun: Sequence[float] | None = None

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        first: int,
        timeout: float | None,
        core: int | None = None,
    ) -> None:
        self.rows = range(first, first + len(env_fns))
        self.core = core
        self.starts = 0
        self.deaths = 0
        self.truncation_pending = False
        self.exit_reason = "was not started"
        self._env_fns = env_fns
        self._timeout = timeout
        self._channel: Channel | None = None
        # Kept from one process to the next. Created here, so that its finalizer is older than that of this
        # worker's pool: at exit, younger finalizers run first.
        self._fork_server: ForkServer | None = ForkServer.shared()
        self._pid: int | None = None
        self._awaiting_reply = False
        self._sent = 0.0  # when the last request was sent, in the seconds of `time.monotonic`
        self._ready = False  # whether the process writes to `begun`

    def __str__(self) -> str:
        return f"the worker of environments {self.rows.start} to {self.rows.stop - 1}"

    def select(self, values: Any) -> Any:
        """Return this worker's slice of a sequence with one value per environment."""
        return values[self.rows.start : self.rows.stop]

    def start(self) -> None:
        """Start a process and ask it to build its environments; then call `receive` for the result."""
        self.starts += 1
        job = pickle_job(self._env_fns, self.rows.start)
        channel, end = Channel.pair(self._timeout)
        with end:
            try:
                self._fork_server = ForkServer.shared()
                self._fork_server.prepare(job)
                self._pid = self._fork_server.fork(end)
            except (EOFError, OSError) as error:
                self.exit_reason = f"could not be forked ({type(error).__name__}: {error})"
                return
        if self.core is not None:
            with contextlib.suppress(OSError):  # the process has died already, which `receive` reports
                os.sched_setaffinity(self._pid, {self.core})
        self._channel, self._awaiting_reply, self._ready = channel, False, False
        self.send("build", job)

    def send(self, method: str, *args: Any, descriptor: int | None = None) -> None:
        """Call a method of `EnvBlock` in the worker; if the worker is lost, `receive` raises.

        Args:
            method: The method's name.
            *args: The method's arguments, pickled by cloudpickle.
            descriptor: A file descriptor to transfer, if the method takes one.
        """
        self._send(cloudpickle.dumps((method, args)), descriptor)
        self._ready = self._ready or descriptor is not None

    def send_step(self, buffer: int) -> None:
        """Request a step with the shared actions, by a message of one byte."""
        self._send(bytes([buffer]))

    def receive(self) -> Any:
        """Return the reply to the last request; it is a `Failure` if the request raised an exception.

        Raises:
            WorkerLostError: If the process has ended or does not answer in time.
        """
        try:
            if self._channel is None:
                raise EOFError
            if self._timeout is not None:
                self._channel.wait(self._deadline)
            reply = self._channel.receive()
        except TimeoutError as error:
            self.stop(timeout=0)
            self.exit_reason = f"did not answer for {self._timeout} s"
            raise WorkerLostError from error
        except (EOFError, OSError) as error:
            self.stop()
            raise WorkerLostError from error
        except BaseException:
            self.disconnect()
            raise
        self._awaiting_reply = False
        return pickle.loads(reply) if reply else None

    def disconnect(self) -> None:
        """Close the channel; the process then closes its environments and exits."""
        if self._channel is not None:
            self._channel.shut_down()
            self._channel = None

    def stop(self, timeout: float = _STOP_TIMEOUT) -> None:
        """Let the process exit, and wait for it; kill it after `timeout` seconds."""
        self.disconnect()
        if self._fork_server is not None and self._pid is not None:
            with contextlib.suppress(EOFError, OSError):
                self.exit_reason = self._fork_server.stop(self._pid, timeout)
        self._pid = None

    def close(self) -> None:
        """End the process, and the fork server too if no other worker uses it."""
        self.stop()
        self._fork_server = None

    def _deadline(self) -> float:
        """Return the time from which the process counts as lost, unless it calls its next environment."""
        assert self._timeout is not None
        if self.begun is None or not self._ready:
            return self._sent + self._timeout * len(self.rows)
        return max(self._sent, float(self.begun[0])) + self._timeout

    def _send(self, message: bytes, descriptor: int | None = None) -> None:
        if self._awaiting_reply:  # the last reply was never received
            self.stop(timeout=0)
        if self._channel is None:
            return
        self._awaiting_reply, self._sent = True, time.monotonic()
        try:
            self._channel.send(message, descriptor)
        except OSError:
            self.stop()


def stop_all(workers: Sequence[Worker]) -> None:
    """Stop workers; they close their environments in parallel."""
    for worker in workers:
        worker.disconnect()
    for worker in workers:
        worker.stop()


def close_all(workers: Sequence[Worker], owner: int) -> None:
    """Close workers, in any state.

    Args:
        workers: The workers; they close their environments in parallel.
        owner: The id of the process that started them. In a fork of it, nothing is done.
    """
    if os.getpid() == owner:
        stop_all(workers)
        for worker in workers:
            worker.close()
