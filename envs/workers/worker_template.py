"""The process that rollout workers are forked from."""

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from typing import Any, NoReturn

from envs.workers.channel import Channel
from envs.workers.worker_process import load_job, work

_PARENT_CHECK = 1.0  # seconds between two looks at whether the parent lives
_LAST_WORDS = 2.0  # seconds that workers have to end by themselves when the parent is gone


class Template:
    """A child process that imports what workers need, once, and forks them.

    A fork of the training process itself would copy the state of torch's threads without the threads,
    and can hang. A fresh interpreter for each worker is safe, but imports torch along with SB3's Monitor,
    for 2 s and 200 MB a worker. The template is a fresh interpreter without a second thread, so its forks are
    safe, take 10 ms and share its memory; that is also what makes a dead worker cheap to replace. As it
    gets its work by cloudpickle, a script needs no ``if __name__ == "__main__"``.

    It ends when this object does, or within seconds of the parent's death, and ends its workers before.
    """

    _shared: "weakref.ReferenceType[Template] | None" = None
    _lock = threading.RLock()

    def __init__(self) -> None:
        self._busy = False
        self._channel, theirs = Channel.pair()
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from envs.workers.worker_template import serve; serve({theirs.fileno()}, {os.getpid()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Workers are the parallelism: more threads in each would contend.
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                },
                process_group=0,  # out of reach of the terminal's Ctrl-C, even while it starts
            )
        self._end = weakref.finalize(self, _end, self._channel, self._process, os.getpid())

    @classmethod
    def shared(cls) -> "Template":
        """Returns the template of this process: the one alive, or a new one."""
        with cls._lock:
            template = cls._shared() if cls._shared is not None else None
            if template is None or not template._end.alive or template._process.poll() is not None:
                template = cls()
                cls._shared = weakref.ref(template)
            return template

    def prepare(self, job: bytes) -> None:
        """Imports what a job needs, for all workers to come.

        Raises:
            OSError: If the template is gone; EOFError likewise.
        """
        self._request("prepare", job)

    def fork(self, end: socket.socket) -> int:
        """Returns the process id of a new worker that obeys a socket, see `worker_process.work`.

        Raises:
            OSError: If the template is gone; EOFError likewise.
        """
        pid: int = self._request("fork", descriptor=end.fileno())
        return pid

    def stop(self, pid: int, patience: float) -> str:
        """Waits for a worker's end, kills it when patience is out, and returns how it ended.

        Args:
            pid: From `fork`, and not yet stopped.
            patience: In seconds.

        Raises:
            OSError: If the template is gone, and its workers with it; EOFError likewise.
        """
        how: str = self._request("stop", pid, patience)
        return how

    def _request(self, *request: Any, descriptor: int | None = None) -> Any:
        with self._lock:
            if self._busy:  # the garbage collector, here between two lines below, ends another vector
                raise BlockingIOError("the template is in conversation")
            self._busy = True
            try:
                self._channel.send(pickle.dumps(request), descriptor)
                return pickle.loads(self._channel.receive())
            except BaseException:
                # Half a conversation, after Ctrl-C for instance, cannot be resumed.
                self._end()
                raise
            finally:
                self._busy = False


def _end(channel: Channel, process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the parent has a copy of the object, but not the duty
    channel.shut()
    process.wait()


def serve(descriptor: int, parent: int) -> None:
    """Obeys `Template` until the parent ends the stream or is gone; runs in the template process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; forks inherit this
    channel = Channel(socket.socket(fileno=descriptor))
    workers: set[int] = set()
    try:
        while True:
            # A fork of the parent may hold its end of the stream open; parenthood cannot be copied.
            while not select.select([channel], [], [], _PARENT_CHECK)[0]:
                if os.getppid() != parent:
                    raise EOFError
            command, *args = pickle.loads(channel.receive())
            reply: Any = None
            if command == "prepare":
                # A job that does not load fails in its worker, which can tell the user.
                with contextlib.suppress(Exception):
                    load_job(*args)
                gc.collect()
                gc.freeze()  # the collector of a fork then leaves the shared pages alone
            elif command == "fork":
                end = socket.socket(fileno=channel.take_descriptor())
                reply = os.fork()
                if reply == 0:
                    channel.drop()
                    _run_worker(end)
                end.close()
                workers.add(reply)
            else:
                reply = _stop(*args)
                workers.discard(args[0])
            channel.send(pickle.dumps(reply))
    except (EOFError, OSError):
        deadline = time.monotonic() + _LAST_WORDS
        for pid in workers:
            _stop(pid, deadline - time.monotonic())


def _run_worker(end: socket.socket) -> NoReturn:
    try:
        work(Channel(end))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the rest of this stack is the template's


def _stop(pid: int, patience: float) -> str:
    deadline = time.monotonic() + patience
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(ended[1])
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
