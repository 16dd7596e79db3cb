"""Means over the states of all processes, for data-parallel training."""

from collections.abc import Callable

from torch import Tensor

# Maps the mean over this process's states, and their number, to the mean over the states of all processes.
Reduce = Callable[[Tensor, int], Tensor]


def identity(mean: Tensor, states: int) -> Tensor:
    """Return the mean as it is: the reduction of a single process."""
    return mean
