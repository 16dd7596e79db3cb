"""The process from which workers are forked."""

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
from envs.workers.worker_process import load_job, serve_requests

_PARENT_CHECK = 1.0  # seconds between two checks that the parent is alive
_SHUTDOWN_GRACE = 2.0  # seconds that workers get to exit by themselves after the parent has ended
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ForkServer:
    """A child process that imports what workers need, once, and forks the workers.

    A fork of the training process itself would copy the state of torch's threads without the threads,
    and could deadlock. A new interpreter per worker is safe, but imports torch along with SB3's Monitor:
    2 s and 200 MB per worker. The fork server is a new interpreter with one thread, so its forks are
    safe, take 10 ms and share its memory, and replacing a dead worker is cheap. It receives jobs pickled by
    cloudpickle, so a script needs no ``if __name__ == "__main__"``.

    It ends when this object is collected, or within seconds after the parent has ended. Its workers end
    before it does.
    """

    _shared: "weakref.ReferenceType[ForkServer] | None" = None
    _lock = threading.RLock()

    def __init__(self) -> None:
        self._busy = False
        self._channel, theirs = Channel.pair()
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from envs.workers.fork_server import serve; serve({theirs.fileno()}, {os.getpid()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_SINGLE_THREAD},  # workers run in parallel, so more threads only contend
                process_group=0,  # the terminal's Ctrl-C does not reach it, even during its start
            )
        self._end = weakref.finalize(self, _end, self._channel, self._process, os.getpid())

    @classmethod
    def shared(cls) -> "ForkServer":
        """Return this process's running fork server, or start one.

        Raises:
            NotImplementedError: On a system without ``fork``.
        """
        if not hasattr(os, "fork"):
            raise NotImplementedError(
                "worker processes need fork, which this system lacks; use vec_env='dummy' or 'subproc'"
            )
        with cls._lock:
            server = cls._shared() if cls._shared is not None else None
            if server is None or not server._end.alive or server._process.poll() is not None:
                server = cls()
                cls._shared = weakref.ref(server)
            return server

    def prepare(self, job: bytes) -> None:
        """Import what a job needs, so that all later workers have it.

        Raises:
            OSError: If the fork server has ended. This may also raise EOFError.
        """
        self._request("prepare", job)

    def fork(self, end: socket.socket) -> int:
        """Fork a worker that serves a socket (see `serve_requests`), and return its process id.

        Raises:
            OSError: If the fork server has ended. This may also raise EOFError.
        """
        return self._request("fork", descriptor=end.fileno())

    def stop(self, pid: int, timeout: float) -> str:
        """Wait for a worker to exit, kill it at the timeout, and return how it ended.

        Args:
            pid: The id that `fork` returned; the worker must not have been stopped before.
            timeout: In seconds.

        Raises:
            OSError: If the fork server has ended, and its workers with it. This may also raise EOFError.
        """
        return self._request("stop", pid, timeout)

    def _request(self, *request: Any, descriptor: int | None = None) -> Any:
        with self._lock:
            if self._busy:  # the garbage collector may close another pool while a request below is pending
                raise BlockingIOError("the fork server is processing another request")
            self._busy = True
            try:
                self._channel.send(pickle.dumps(request), descriptor)
                return pickle.loads(self._channel.receive())
            except BaseException:
                # If a reply was not received, e.g. after Ctrl-C, the next request would get it.
                self._end()
                raise
            finally:
                self._busy = False


def _end(channel: Channel, process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the parent has a copy of this object, but the process is not its child
    channel.shut_down()
    process.wait()


def serve(descriptor: int, parent: int) -> None:
    """Serve requests of `ForkServer` until the parent disconnects or ends; runs in the server process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it; forks inherit this
    channel = Channel(socket.socket(fileno=descriptor))
    workers: set[int] = set()
    try:
        while True:
            # A fork of the parent may keep its end of the socket open, so check the parent's id as well.
            while not select.select([channel], [], [], _PARENT_CHECK)[0]:
                if os.getppid() != parent:
                    raise EOFError
            command, *args = pickle.loads(channel.receive())
            reply: Any = None
            if command == "prepare":
                # A job that does not load fails again in its worker, which reports the error.
                with contextlib.suppress(Exception):
                    load_job(*args)
                gc.collect()
                gc.freeze()  # so that the garbage collector of a fork does not write to shared pages
            elif command == "fork":
                end = socket.socket(fileno=channel.take_descriptor())
                reply = os.fork()
                if reply == 0:
                    channel.close()
                    _run_worker(end)
                end.close()
                workers.add(reply)
            else:
                reply = _stop(*args)
                workers.discard(args[0])
            channel.send(pickle.dumps(reply))
    except (EOFError, OSError):
        deadline = time.monotonic() + _SHUTDOWN_GRACE
        for pid in workers:
            _stop(pid, deadline - time.monotonic())


def _run_worker(end: socket.socket) -> NoReturn:
    try:
        serve_requests(Channel(end))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the rest of this stack belongs to the fork server


def _stop(pid: int, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(ended[1])
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
