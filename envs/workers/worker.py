"""The training process's side of a rollout worker."""

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

TIMEOUT = 60.0  # seconds by default that an environment may take, see `WorkerVecEnv`
_STOP_TIMEOUT = 3.0  # seconds that a worker gets to close its environments


class WorkerLostError(Exception):
    """Raised when a worker has died or did not answer in time; its process has ended."""


class Worker:
    """A block of environments in a process, which `start` can replace by a new one.

    Requests and replies alternate. Whatever breaks the alternation, i.e. death, a timeout, or Ctrl-C while
    a reply is awaited, ends the process.

    Args:
        env_fns: One per environment of the block.
        first: The index of the first of them in the whole vector.
        timeout: Seconds that the process may spend in one environment, None for no limit; to build the
            block, that long per environment.
        core: The core to run on, None for any.

    Attributes:
        rows: The indices of its environments in the whole vector.
        starts: How many processes were started.
        deaths: How many were lost since the last completed step.
        truncation_pending: Whether it was replaced since the learner last received its transitions.
        exit_reason: How the last process ended, for messages.
        begun: Its rows of `StepArrays.begun`, once there are any.
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
        self.starts = 0
        self.deaths = 0
        self.truncation_pending = False
        self.exit_reason = "was not started"
        self._env_fns = env_fns
        self._timeout = timeout
        self._core = core
        self._channel: Channel | None = None
        # Kept between two processes, and created here so that it is older than a finalizer of this
        # worker: at exit the younger runs first.
        self._fork_server: ForkServer | None = ForkServer.shared()
        self._pid: int | None = None
        self._awaiting_reply = False
        self._sent = 0.0  # when the last request was, by `time.monotonic`
        self._ready = False  # whether it shares `begun`

    def __str__(self) -> str:
        return f"the worker of environments {self.rows.start} to {self.rows.stop - 1}"

    def select(self, values: Any) -> Any:
        """Return this worker's slice of a sequence with one value per environment."""
        return values[self.rows.start : self.rows.stop]

    def start(self) -> None:
        """Start a process and ask it to build its environments; `receive` reports how that went."""
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
        if self._core is not None:
            with contextlib.suppress(OSError):  # it has died already, as `receive` reports
                os.sched_setaffinity(self._pid, {self._core})
        self._channel, self._awaiting_reply, self._ready = channel, False, False
        self.send("build", job)

    def send(self, method: str, *args: Any, descriptor: int | None = None) -> None:
        """Call a method of `EnvBlock` in the worker; if the worker is lost, `receive` raises.

        Args:
            method: Its name.
            *args: Its arguments, pickled by cloudpickle.
            descriptor: A file to transfer, if the method takes one.
        """
        self._send(cloudpickle.dumps((method, args)), descriptor)
        self._ready = self._ready or descriptor is not None

    def send_step(self, buffer: int) -> None:
        """Request a step with the shared actions, in one byte."""
        self._send(bytes([buffer]))

    def receive(self) -> Any:
        """Return the reply to the last request, a `Failure` if it raised an exception.

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
        """End the process and wait for that; kill it at the timeout, in seconds."""
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
        """Return when the process counts as lost, unless it proceeds to its next environment."""
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
        workers: Whose environments close in parallel.
        owner: The id of the process that started them; a fork of it does nothing.
    """
    if os.getpid() == owner:
        stop_all(workers)
        for worker in workers:
            worker.close()
