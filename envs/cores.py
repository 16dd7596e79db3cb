"""Find the processor cores that this process may use."""

import os
from collections.abc import Sequence


def usable_cores() -> Sequence[int | None]:
    """Return the ids of the usable cores; None for each core if the system does not report ids."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [None] * (os.cpu_count() or 1)  # not on Linux
