"""Data with the states along the first dimension: tensors, or tuples, lists and dictionaries of them.

Data whose states depend on one another, e.g. sequences, are a `GroupedStates`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from torch import Tensor


class GroupedStates(ABC):
    """Input of an actor whose states belong to groups that only make sense as a whole, e.g. sequences.

    The actor returns one distribution per state. Their order is group by group.

    Attributes:
        lengths: the number of states in each group.
    """

    lengths: Sequence[int]

    def __len__(self) -> int:
        """Return the number of states."""
        return sum(self.lengths)

    @abstractmethod
    def select(self, states: slice | Tensor) -> Self:
        """Return some of the groups, given by the indices of all of their states, in order.

        Raises:
            ValueError: the states are not those of whole groups.
        """

    @abstractmethod
    def each(self, function: Callable[[Any], Any]) -> Self:
        """Return the same groups with a function applied to every tensor."""


def check_micro_batch_size(size: int | None) -> None:
    """Check the size of micro-batches.

    Raises:
        ValueError: the size is less than 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"micro_batch_size must be at least 1 state, or None for all at once; got {size}")


def micro_batches(data: Any, size: int) -> Iterator[Any]:
    """Yield `data`, tensors or tuples, lists and dictionaries of them, `size` states at a time.

    Groups are not divided: a part has as many as have at most `size` states together, but at least one.

    Raises:
        TypeError: an element is not a tensor.
        ValueError: there is no state, or the tensors' lengths differ.
    """
    states = count_states(data)
    if states == 0:
        raise ValueError("expected at least one state, got an empty batch of observations")
    start = 0
    for stop in ends(data, states, size):
        yield select(data, slice(start, stop))
        start = stop


def ends(data: Any, states: int, size: int) -> Iterator[int]:
    """Yield the indices of the states after each micro-batch of at most `size` states, or of one group."""
    groups = next((leaf for leaf in leaves_of(data) if isinstance(leaf, GroupedStates)), None)
    if groups is None:
        yield from (min(start + size, states) for start in range(0, states, size))
        return
    start = stop = 0
    for length in groups.lengths:
        if start < stop and stop + length - start > size:
            yield stop
            start = stop
        stop += length
    yield stop


def count_states(data: Any) -> int:
    """Return the number of states: the length of every tensor in the data.

    Raises:
        TypeError: an element is not a tensor.
        ValueError: the lengths differ, or there is no tensor.
    """
    lengths = set(_lengths(data))
    if len(lengths) != 1:
        raise ValueError(
            f"micro-batches need tensors of the same length, the number of states; got {sorted(lengths)}"
        )
    return lengths.pop()


def _lengths(data: Any) -> Iterator[int]:
    if isinstance(data, Tensor | GroupedStates):
        yield len(data)
        return
    if isinstance(data, dict | tuple | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _lengths(value)
        return
    raise TypeError(
        "micro-batches need tensors, or tuples, lists and dictionaries of them, with the states along the "
        f"first dimension; got {type(data).__name__}"
    )


def select(data: Any, states: slice | Tensor) -> Any:
    """Return some of the states of `data`, tensors or tuples, lists and dictionaries of them.

    Args:
        data: every tensor with the states along its first dimension, or groups of states.
        states: the states to return, as an index into that dimension.
    """

    def of(part: Any) -> Any:
        if isinstance(part, GroupedStates):
            return part.select(states)
        return part[states.to(part.device) if isinstance(states, Tensor) else states]

    return _map(of, data)


def each(function: Callable[[Any], Any], data: Any) -> Any:
    """Return `data`, tensors or tuples, lists and dictionaries of them, with a function applied to each."""
    return _map(lambda part: part.each(function) if isinstance(part, GroupedStates) else function(part), data)


def _map(function: Callable[[Any], Any], data: Any) -> Any:
    """Return `data` with a function applied to each tensor, and to groups of states as a whole."""
    if isinstance(data, dict):
        return {key: _map(function, value) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(_map(function, value) for value in data)
    return function(data)


def leaves_of(data: Any) -> list[Any]:
    """Return what is in `data`, values or tuples, lists and dictionaries of them, in order."""
    leaves: list[Any] = []
    _map(leaves.append, data)
    return leaves
