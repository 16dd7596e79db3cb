"""The weights with which a policy acted."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from agents.policy.snapshot import Snapshot


class BehaviourWeights:
    """A copy of a policy's weights, which can be restored for a while.

    A callback may change the policy within a rollout, e.g. anneal `log_std`; deferred values must still be
    computed with the weights that acted. In-place changes are detected by PyTorch's version counters;
    replacing a layer, or writing through ``.data``, is not detected.

    Args:
        policy: with the weights that act now.
    """

    def __init__(self, policy: nn.Module):
        self._tensors = [*policy.parameters(), *policy.buffers()]
        self.keep()

    def keep(self) -> None:
        """Copy the present weights."""
        self._copy = Snapshot(self._tensors)
        self._versions = [tensor._version for tensor in self._tensors]

    @property
    def changed(self) -> bool:
        """Whether the policy was written to since the copy."""
        return [tensor._version for tensor in self._tensors] != self._versions

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Give the policy the copied weights inside the block, and the present ones after it."""
        if not self.changed:
            yield
            return
        present = Snapshot(self._tensors)
        self._copy.restore()
        try:
            yield
        finally:
            present.restore()
