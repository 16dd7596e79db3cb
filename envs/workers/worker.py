"""A rollout worker as the training process sees it."""

import contextlib
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym

from envs.workers.channel import Channel
from envs.workers.worker_process import describe_job
from envs.workers.worker_template import Template

_PATIENCE = 3.0  # seconds that a worker has to close its environments


class WorkerLostError(Exception):
    """Raised when a worker has died or did not answer in time; its process has ended."""


class Worker:
    """One place for a process that holds a block of environments; processes may follow each other in it.

    Requests and replies alternate. What breaks the alternation, be it death, a timeout or
    Ctrl-C while a reply is awaited, ends the process.

    Args:
        env_fns: The block's, one an environment.
        first: The index of the first of them in the whole vector.
        timeout: Seconds that the process may take for an answer, None for any.
        core: Where it runs, None for anywhere.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        first: int,
        timeout: float | None,
        core: int | None = None,
    ) -> None:
        self.rows = range(first, first + len(env_fns))
        self.starts = 0
        self.deaths = 0  # since the last completed step
        self.cut_short = False  # replaced since the learner last heard of its episodes
        self.fate = "was not started"
        self._env_fns = env_fns
        self._timeout = timeout
        self._core = core
        self._channel: Channel | None = None
        # Kept between two processes, and taken here so as to be older than a finalizer of this
        # worker: at exit the younger goes first.
        self._template: Template | None = Template.shared()
        self._pid: int | None = None
        self._waiting = False  # for a reply

    def __str__(self) -> str:
        return f"the worker of environments {self.rows.start} to {self.rows.stop - 1}"

    def start(self) -> None:
        """Starts a process and asks it to build its environments; `receive` tells how that went."""
        self.starts += 1
        job = describe_job(self._env_fns, self.rows.start)
        channel, end = Channel.pair(self._timeout)
        with end:
            try:
                self._template = Template.shared()
                self._template.prepare(job)
                self._pid = self._template.fork(end)
            except (EOFError, OSError) as error:
                self.fate = f"could not be forked ({type(error).__name__}: {error})"
                return
        if self._core is not None:
            with contextlib.suppress(OSError):  # it is dead already, as the first answer tells
                os.sched_setaffinity(self._pid, {self._core})
        self._channel, self._waiting = channel, False
        self.send("build", job)

    def send(self, method: str, *args: Any, descriptor: int | None = None) -> None:
        """Asks for a method of `EnvBlock`; if the worker is lost, `receive` tells.

        Args:
            method: Its name.
            *args: Its arguments, pickled by cloudpickle.
            descriptor: A file to hand over, where the method takes one.
        """
        self._send(cloudpickle.dumps((method, args)), descriptor)

    def send_step(self, slot: int) -> None:
        """Asks for a step with the shared actions, in one byte."""
        self._send(bytes([slot]))

    def receive(self) -> Any:
        """Returns the reply to what was sent, a `Failure` where an exception was raised.

        Raises:
            WorkerLostError: If the process is gone or does not answer in time.
        """
        try:
            if self._channel is None:
                raise EOFError
            reply = self._channel.receive()
        except TimeoutError as error:
            self.stop(patience=0)
            self.fate = f"did not answer for {self._timeout} s"
            raise WorkerLostError from error
        except (EOFError, OSError) as error:
            self.stop()
            raise WorkerLostError from error
        except BaseException:
            self.hang_up()
            raise
        self._waiting = False
        return pickle.loads(reply) if reply else None

    def hang_up(self) -> None:
        """Ends the conversation, at which the process closes its environments and ends."""
        if self._channel is not None:
            self._channel.shut()
            self._channel = None

    def stop(self, patience: float = _PATIENCE) -> None:
        """Ends the process and waits for that; killed when patience, in seconds, is out."""
        self.hang_up()
        if self._template is not None and self._pid is not None:
            with contextlib.suppress(EOFError, OSError):
                self.fate = self._template.stop(self._pid, patience)
        self._pid = None

    def close(self) -> None:
        """Ends the process, and the template too if no other worker needs it."""
        self.stop()
        self._template = None

    def _send(self, message: bytes, descriptor: int | None = None) -> None:
        if self._waiting:  # for a reply that nobody came to fetch
            self.stop(patience=0)
        if self._channel is None:
            return
        self._waiting = True
        try:
            self._channel.send(message, descriptor)
        except OSError:
            self.stop()


def close_all(workers: Sequence[Worker], owner: int) -> None:
    """Closes workers; they close their environments side by side.

    Args:
        workers: In any state.
        owner: The id of the process that started them; in a fork of it nothing is done.
    """
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.close()
