"""The weights that a policy had when it acted."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from agents.policy.snapshot import Snapshot


class BehaviourWeights:
    """A copy of a policy's weights, which can be restored temporarily.

    A callback may change the policy during a rollout, e.g. anneal `log_std`; deferred values must still be
    computed with the weights that the policy had when it acted. In-place changes are detected by PyTorch's
    version counters; replacing a layer, or writing through ``.data``, is not detected.

    Args:
        policy: the policy, with the weights to copy.
    """

    def __init__(self, policy: nn.Module):
        self._tensors = [*policy.parameters(), *policy.buffers()]
        self.keep()

    def keep(self) -> None:
        """Copy the current weights."""
        self._copy = Snapshot(self._tensors)
        self._versions = [tensor._version for tensor in self._tensors]

    @property
    def changed(self) -> bool:
        """Whether the weights were written to since they were copied."""
        return [tensor._version for tensor in self._tensors] != self._versions

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Give the policy the copied weights inside the block, and the current ones again after it."""
        if not self.changed:
            yield
            return
        present = Snapshot(self._tensors)
        self._copy.restore()
        try:
            yield
        finally:
            present.restore()
