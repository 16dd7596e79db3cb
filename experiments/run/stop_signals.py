"""SIGINT and SIGTERM as a wish that a run grants at the next safe place."""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

GRACE = 5.0  # seconds that a rollout has to end by itself
INTERRUPTED = 128 + signal.SIGINT  # what a shell reports of a command that Ctrl-C ended
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A run ends because it was asked to.

    Attributes:
        code: the command's exit code, 128 plus the signal's number, as shells have it.
    """

    def __init__(self, code: int):
        super().__init__(f"stopped by {signal.Signals(code - 128).name}")
        self.code = code


class StopSignals:
    """While entered, the first SIGINT or SIGTERM is only noted; a second one ends the process at once.

    Outside the main thread, where Python takes no signals, it notes nothing.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal, self._since = number, time.monotonic()
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    @property
    def asked(self) -> bool:
        """Whether there was one."""
        return self._signal is not None

    @property
    def overdue(self) -> bool:
        """Whether there was one so long ago that waiting for the rollout's end has to end."""
        return self.asked and time.monotonic() - self._since > GRACE

    def check(self) -> None:
        """End the run if there was a signal.

        Raises:
            Stopped: there was.
        """
        if self._signal is not None:
            raise Stopped(128 + self._signal)
