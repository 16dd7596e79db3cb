"""Means over processes, for data-parallel training."""

from collections.abc import Callable

from torch import Tensor

# Maps a local mean to the mean over all processes, e.g. an all-reduce divided by the world size.
Reduce = Callable[[Tensor], Tensor]


def identity(tensor: Tensor) -> Tensor:
    """Return the tensor as it is: the reduction of a single process."""
    return tensor
