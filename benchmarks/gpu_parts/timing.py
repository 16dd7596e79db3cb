"""Measure time and memory of work on a device."""

import gc
import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Any, Self

import torch

BATCH_SECONDS = 5e-3  # the shortest duration of a timed batch of calls
BATCHES = 7
MOST_CALLS = 200


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Free what earlier work left on a CUDA device."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def measure_seconds(function: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Return the mean seconds of consecutive calls, including the wait until the device is idle."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def median_seconds(function: Callable[[], Any], device: torch.device, limit: float = 1.0) -> float:
    """Return the median, over batches of calls, of the mean seconds of a call, after a warm-up.

    Args:
        function: the work.
        device: the device that it runs on.
        limit: seconds to spend. A call that takes longer is timed once.
    """
    function()
    estimate = measure_seconds(function, device)
    if estimate >= limit:
        return estimate
    calls = max(1, min(MOST_CALLS, round(BATCH_SECONDS / max(estimate, 1e-7))))
    batches = max(2, min(BATCHES, int(limit / (calls * max(estimate, 1e-7)))))
    return median(measure_seconds(function, device, calls) for _ in range(batches))


class PeakMemory:
    """Measure the peak of the memory that torch allocates on a CUDA device inside a `with` block.

    Attributes:
        mib: the peak in MiB up to the end of the block; None on other devices.
        extra_mib: the same, minus what was allocated before the block.
    """

    mib: float | None = None
    extra_mib: float | None = None

    def __init__(self, device: torch.device):
        self._device = device
        self._before = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.mib = self.so_far()
        if self.mib is not None:
            self.extra_mib = self.mib - self._before / 2**20

    def so_far(self) -> float | None:
        """Return the peak so far in MiB."""
        if self._device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self._device) / 2**20
