"""One CUDA graph, and what torch needs around its capture."""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Generator

T = TypeVar("T")

# What other threads do during a capture, e.g. allocate memory, does not make it fail.
ERROR_MODE = "thread_local"
WARM_UPS = 2  # so that libraries choose kernels and allocate memory before the capture


class CudaGraph:
    """The operations of one function: `capture` them once, and `replay` them as often as needed.

    Args:
        device: a CUDA device.
        generators: the random generators that the function draws from, besides the default one.
    """

    def __init__(self, device: torch.device, generators: Iterable[Generator] = ()):
        self._device = device
        self._generators = tuple(generators)
        self._graph: torch.cuda.CUDAGraph | None = None

    @staticmethod
    def available(device: torch.device) -> bool:
        """Return whether work on the device can be captured now."""
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    @staticmethod
    def default_generators(device: torch.device) -> tuple[Generator, ...]:
        """Return the generators that every graph of the device has."""
        index = torch.cuda.current_device() if device.index is None else device.index
        return (torch.cuda.default_generators[index],)

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run the function on the stream of the capture."""
        with self._on_side_stream():
            for _ in range(WARM_UPS):
                run()

    def capture(self, run: Callable[[], T]) -> T:
        """Record the function's operations without executing them.

        Returns:
            The function's results, which `replay` writes.

        Raises:
            RuntimeError: the function waits for the device, or does something else that cannot be captured.
        """
        # An error during a capture leaves torch in a bad state, so find operations that wait beforehand.
        with self._on_side_stream(), _waiting_is_an_error():
            run()
        current, pool = torch.cuda.current_stream(self._device), torch.cuda.graph_pool_handle()
        try:
            self._graph, results = self._captured(run, pool)
        except BaseException:
            self._recover(current, pool)
            raise
        return results

    def replay(self) -> None:
        """Queue the operations on the current stream."""
        assert self._graph is not None, "nothing was captured"
        self._graph.replay()

    def drop(self) -> None:
        """Free the graph and its memory, once queued replays are done."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)
            self._graph = None

    def _captured(self, run: Callable[[], T], pool: Any) -> tuple[torch.cuda.CUDAGraph, T]:
        graph, side = torch.cuda.CUDAGraph(), _side_stream(self._device)
        for generator in self._generators:
            graph.register_generator_state(generator)
        with (
            torch.cuda.device(self._device),
            _no_garbage_collection(),  # it could free another graph
            torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode=ERROR_MODE),
        ):
            results = run()
        return graph, results

    def _recover(self, current: torch.cuda.Stream, pool: Any) -> None:
        """Undo what torch leaves behind if it cannot end a capture."""
        torch.cuda.set_stream(current)
        torch.cuda.synchronize(self._device)
        with suppress(Exception):  # if torch has done it
            torch._C._cuda_endAllocateToPool(current.device_index, pool)
        # The generators still count as being captured, until another capture ends.
        self._captured(lambda: torch.zeros(1, device=self._device), torch.cuda.graph_pool_handle())

    @contextmanager
    def _on_side_stream(self) -> Iterator[None]:
        side, current = _side_stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        try:
            with torch.cuda.stream(side):
                yield
        finally:
            current.wait_stream(side)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream per device: libraries keep memory for each stream that they were used on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it does not find all operations that wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
