"""How much of the processors other programs use during a measurement."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")  # per second
IDLE, WAITING_FOR_DISK, GUEST = 3, 4, 8  # columns of /proc/stat after the name


class OtherLoad:
    """The load of all processes but some and their descendants, since the start of a block.

    Args:
        own: their process ids.

    Attributes:
        cores: the number of cores that the others used on average, after the block. It includes time that
            the hypervisor took.
    """

    def __init__(self, own: list[int]):
        self._own = own
        self.cores = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic(), self._others()
        return self

    def __exit__(self, *_: object) -> None:
        start, before = self._start
        self.cores = max(self._others() - before, 0.0) / (time.monotonic() - start)

    def _others(self) -> float:
        """Return seconds of all cores that other processes have used since the machine started."""
        line = Path("/proc/stat").read_text().splitlines()[0]
        columns = [int(number) for number in line.split()[1:]]
        used = sum(columns[:GUEST]) - columns[IDLE] - columns[WAITING_FOR_DISK]
        return used / TICKS - sum(map(used_by, self._own))


def used_by(process: int) -> float:
    """Return seconds of a core that a process and its running descendants have used."""
    seconds = 0.0
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        folder = Path(f"/proc/{process}")
        columns = (folder / "stat").read_text().rpartition(")")[2].split()
        seconds = (int(columns[11]) + int(columns[12])) / TICKS  # user, system
        for children in folder.glob("task/*/children"):
            seconds += sum(used_by(int(child)) for child in children.read_text().split())
    return seconds
