"""The record of the process that writes into a folder, for hosts that do not see each other's locks.

The kernel's lock (`folder_lock`) decides between processes of one host, and on most network file systems also
between hosts. Where a file system keeps locks on each host, the record decides: `.<name>.owner`, next to the
folder, contains host, process and time, and its owner touches it every `BEAT` seconds. A process on another
host takes it over after `STALE` seconds without a touch.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.untrusted_file import read_text
from experiments.terminal import one_line, show

BEAT = 10.0  # seconds
STALE = 60.0  # seconds; several beats, since a network file system may show a touch late
POLL = 0.5  # seconds
MOST = 4096  # bytes of a record


def host() -> dict[str, str]:
    """Return the name of this host, and an id of its kernel, which containers on one machine share."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not on Linux
        kernel = socket.gethostname()
    return {"host": socket.gethostname(), "kernel": kernel}


class FolderOwner:
    """The record of this process, which keeps the folder until `close`.

    Args:
        folder: the folder, locked by this process.

    Raises:
        BlockingIOError: a process on another host writes into the folder; the message has host and process.
        OSError: the record cannot be written.
    """

    def __init__(self, folder: Path):
        whole = folder.resolve()
        self._path = whole.with_name(f".{whole.name}.owner") if whole.name else whole / ".owner"
        self._own = {**host(), "process": os.getpid(), "time": datetime.now().isoformat()}
        self._wait_for_other(folder)
        with suppress(FileNotFoundError):
            self._path.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except FileExistsError:
            raise BlockingIOError("another process has just taken it") from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._own, file)
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="folder owner", daemon=True).start()

    def close(self) -> None:
        """Remove the record, unless another process has taken it over."""
        self._ended.set()
        if self._read() == self._own:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):  # e.g. the file system is away for a while
                os.utime(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(read_text(self._path, MOST))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _wait_for_other(self, folder: Path) -> None:
        """Return if no process on another host owns the folder, or once its record has become stale."""
        other = self._read()
        # This process has the lock, so an owner on the same host has ended.
        if not other or other.get("kernel") == self._own["kernel"]:
            return
        name = f"process {other.get('process')!s:.20} on {one_line(str(other.get('host')))[:100]}"
        touched, end = self._touched(), time.monotonic() + STALE
        show(f"{one_line(folder)} belongs to {name}; waiting up to {STALE:g} s for a sign that it still runs")
        while time.monotonic() < end:
            time.sleep(POLL)
            if (now := self._touched()) is None:
                return
            if now != touched:
                raise BlockingIOError(f"{name} is writing into it")
        show(f"{name} has not touched {one_line(self._path)} for {STALE:g} s and is taken to have ended")

    def _touched(self) -> float | None:
        with suppress(OSError):
            return os.lstat(self._path).st_mtime
        return None
