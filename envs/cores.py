"""Find the processor cores that this process may use."""

import os
from collections.abc import Sequence


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
