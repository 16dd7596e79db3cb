"""A stand-in for a CUDA graph on the CPU: a replay runs the function again and copies its results.

As with a CUDA graph, arguments are read from the buffers of the capture, results are written where those of
the capture are, and results that were not written by a replay are not usable. Unlike in a CUDA graph, Python
code runs in every replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from npg.captured import Captured
from npg.cuda_graph import WARM_UPS, CudaGraph


class FakeGraph(CudaGraph):
    """A graph on the CPU, which counts."""

    captures = replays = drops = 0
    capturing = False

    @staticmethod
    def available(device: torch.device) -> bool:
        """Return whether there is no capture around this one."""
        return not FakeGraph.capturing

    @staticmethod
    def default_generators(device: torch.device) -> tuple[Generator, ...]:
        """Return the CPU's."""
        return (torch.default_generator,)

    def warm_up(self, run: Callable[[], Any]) -> None:
        """Run the function."""
        for _ in range(WARM_UPS):
            run()

    def capture(self, run: Callable[[], Any]) -> Any:
        """Keep the function, and results without values."""
        FakeGraph.capturing = True
        try:
            self.results = run()
        finally:
            FakeGraph.capturing = False
        self.run = run
        for tensor in tensors(self.results):
            tensor.detach().fill_(-12345 if tensor.is_floating_point() else 1)
        FakeGraph.captures += 1
        return self.results

    @torch.no_grad()
    def replay(self) -> None:
        """Run the function and overwrite the results."""
        FakeGraph.replays += 1
        with torch.enable_grad():
            new = self.run()
        for old, tensor in zip(tensors(self.results), tensors(new), strict=True):
            old.detach().copy_(tensor)

    def drop(self) -> None:
        """Count."""
        FakeGraph.drops += 1


def tensors(data: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)]


@contextmanager
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeGraph]]:
    """Capture on the CPU, with counts from zero."""
    FakeGraph.captures = FakeGraph.replays = FakeGraph.drops = 0
    with monkeypatch.context() as patch:
        patch.setattr(Captured, "graph", FakeGraph)
        yield FakeGraph
