"""Find the processor cores that this process may use, and the one that it uses now."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence

# Python 3.11 has no function for it.
_current_core: Callable[[], int] | None = ctypes.CDLL(None).sched_getcpu if sys.platform == "linux" else None


def usable_cores() -> Sequence[int | None]:
    """Return the ids of the usable cores; None for each core if the system does not report ids.

    If torchrun has started several ranks on this machine, these are every n-th core for each, or all cores if
    there are fewer cores than ranks.
    """
    cores: Sequence[int | None] = [None] * (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        cores = sorted(os.sched_getaffinity(0))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return cores[int(os.environ.get("LOCAL_RANK", "0")) :: ranks] if ranks <= len(cores) else cores


def current_core() -> int | None:
    """Return the id of the core that this thread runs on; None if the system does not report it."""
    return None if _current_core is None else _current_core()
