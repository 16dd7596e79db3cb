"""A policy as it was when it acted."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from agents.policy.snapshot import Snapshot


class AsActed:
    """The numbers of a policy at one moment, to which it can be put back for a while.

    A callback may change them within a rollout, by annealing `log_std` say, and what is deferred still has to
    be worked out as it would have been at once. Changes in place are seen, by PyTorch's own counters;
    another module in a layer's place, or a write through ``.data``, is not.

    Args:
        policy: as it acts now.
    """

    def __init__(self, policy: nn.Module):
        self._tensors = [*policy.parameters(), *policy.buffers()]
        self.keep()

    def keep(self) -> None:
        """Take the present numbers."""
        self._then = Snapshot(self._tensors)
        self._versions = [tensor._version for tensor in self._tensors]

    @property
    def moved(self) -> bool:
        """Whether somebody has written into the policy since."""
        return [tensor._version for tensor in self._tensors] != self._versions

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Let the policy have the numbers of then, and afterwards those of now."""
        if not self.moved:
            yield
            return
        now = Snapshot(self._tensors)
        self._then.restore()
        try:
            yield
        finally:
            now.restore()
