"""Graceful shutdown: SIGINT and SIGTERM request a stop at the next update boundary."""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

GRACE = 5.0  # seconds after a signal in which the rollout may end by itself
INTERRUPTED = 128 + signal.SIGINT  # the exit code of a command that Ctrl-C ended, by a shell's convention
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A signal has stopped a run or a grid.

    Attributes:
        code: the command's exit code: 128 plus the signal's number, as in a shell.
    """

    def __init__(self, code: int):
        super().__init__(f"stopped by {signal.Signals(code - 128).name}")
        self.code = code


class StopSignals:
    """While entered, record the first SIGINT or SIGTERM; a second one ends the process at once.

    Outside the main thread, where Python handles no signals, it does nothing.
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
    def number(self) -> int:
        """The number of the signal that requested a stop; 0 if there was none."""
        return self._signal or 0

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._signal is not None

    @property
    def overdue(self) -> bool:
        """Whether the signal came so long ago that the rollout must be interrupted."""
        return self.requested and time.monotonic() - self._since > GRACE

    def check(self) -> None:
        """Raise `Stopped` if a stop was requested.

        Raises:
            Stopped: a signal was received.
        """
        if self._signal is not None:
            raise Stopped(128 + self._signal)
