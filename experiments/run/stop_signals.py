"""Graceful shutdown: SIGINT and SIGTERM request a stop at the next update boundary."""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

GRACE = 5.0  # seconds in which a rollout may end
INTERRUPTED = 128 + signal.SIGINT  # what a shell reports of a command that Ctrl-C ended
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A signal requested that a run or a grid ends.

    Attributes:
        code: the command's exit code, 128 plus the signal's number, as shells have it.
    """

    def __init__(self, code: int):
        super().__init__(f"stopped by {signal.Signals(code - 128).name}")
        self.code = code


class StopSignals:
    """While entered, record the first SIGINT or SIGTERM; a second one ends the process at once.

    Outside the main thread, where Python handles no signals, nothing is recorded.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        self._signal, self._since = number, time.monotonic()
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    @property
    def requested(self) -> bool:
        """Whether there was a signal."""
        return self._signal is not None

    @property
    def overdue(self) -> bool:
        """Whether the signal came so long ago that the rollout must be interrupted."""
        return self.requested and time.monotonic() - self._since > GRACE

    def check(self) -> None:
        """End the run if there was a signal.

        Raises:
            Stopped: there was one.
        """
        if self._signal is not None:
            raise Stopped(128 + self._signal)
