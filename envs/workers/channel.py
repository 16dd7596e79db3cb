"""Messages between two processes over a socket pair."""

import array
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Self

_HEADER = 8  # bytes that hold a message's length
_CHUNK = 1 << 16  # most messages arrive whole in one system call
_DESCRIPTOR = array.array("i", [0]).itemsize


class Channel:
    """One end of a request-reply connection that transfers byte strings of any length.

    A socket wakes a process as fast as a pipe. Unlike a pipe it also reports that the other end has
    exited, buffers messages of any size, and transfers file descriptors.

    Args:
        end: One end of a socket pair; the channel owns it.
        timeout: Seconds that sending a message, or receiving the rest of one, may block; None for no limit.
    """

    def __init__(self, end: socket.socket, timeout: float | None = None) -> None:
        self._socket = end
        self._timeout = timeout
        self._socket.settimeout(timeout)
        self._descriptors = array.array("i")

    @classmethod
    def pair(cls, timeout: float | None = None) -> tuple[Self, socket.socket]:
        """Return a channel with a timeout, and the socket for the other process."""
        ours, theirs = socket.socketpair()
        return cls(ours, timeout), theirs

    def fileno(self) -> int:
        """Return the descriptor to wait on, for `select.select`."""
        return self._socket.fileno()

    def send(self, message: bytes, descriptor: int | None = None) -> None:
        """Send one message and, if given, a duplicate of an open file's descriptor.

        Raises:
            OSError: If the other end is closed, or reads nothing until the timeout.
        """
        framed = len(message).to_bytes(_HEADER, "little") + message
        if descriptor is not None:
            framed = framed[socket.send_fds(self._socket, [framed], [descriptor]) :]
        self._socket.sendall(framed)

    def wait(self, deadline: Callable[[], float]) -> None:
        """Wait until a message arrives or the other end is closed.

        Args:
            deadline: Returns when to give up, in the seconds of `time.monotonic`. It is called again at that
                time, and may then return a later one.

        Raises:
            TimeoutError: At the deadline.
            OSError: If the connection is broken.
        """
        try:
            while True:
                left = deadline() - time.monotonic()
                self._socket.settimeout(max(left, 1e-4))
                with contextlib.suppress(TimeoutError):
                    self._socket.recv(1, socket.MSG_PEEK)
                    return
                if left <= 0:
                    raise TimeoutError
        finally:
            self._socket.settimeout(self._timeout)

    def receive(self) -> bytes:
        """Return the next message.

        Raises:
            EOFError: If the other end is closed.
            OSError: Likewise, or if nothing arrives until the timeout.
        """
        data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, socket.CMSG_SPACE(_DESCRIPTOR))
        for _, _, descriptor in ancillary:
            self._descriptors.frombytes(descriptor[:_DESCRIPTOR])
        if len(data) < _HEADER:  # a header is too short to be split
            raise EOFError
        size = int.from_bytes(data[:_HEADER], "little")
        message = data[_HEADER:]
        return message if len(message) == size else message + self._read(size - len(message))

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the last message; the caller owns it."""
        return self._descriptors.pop()

    def shut_down(self) -> None:
        """End the connection for both sides, even if a forked process holds a copy of the socket."""
        with contextlib.suppress(OSError):  # the other end is closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close only this process's copy of the socket."""
        self._socket.close()

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = self._socket.recv_into(view[done:])
            if count == 0:
                raise EOFError
            done += count
        return data
