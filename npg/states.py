"""Data with the states along the first dimension: tensors, or tuples, lists and dictionaries of them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def check_micro_batch_size(size: int | None) -> None:
    """Check the size of micro-batches.

    Raises:
        ValueError: the size is less than 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"micro_batch_size must be at least 1 state, or None for all at once; got {size}")


def micro_batches(data: Any, size: int) -> Iterator[Any]:
    """Yield `data`, tensors or tuples, lists and dictionaries of them, `size` states at a time.

    Raises:
        TypeError: an element is not a tensor.
        ValueError: there is no state, or the tensors' lengths differ.
    """
    states = count_states(data)
    if states == 0:
        raise ValueError("expected at least one state, got an empty batch of observations")
    for start in range(0, states, size):
        yield select(data, slice(start, start + size))


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
    if isinstance(data, Tensor):
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
        data: every tensor with the states along its first dimension.
        states: the states to return, as an index into that dimension.
    """

    def of(tensor: Tensor) -> Tensor:
        return tensor[states.to(tensor.device) if isinstance(states, Tensor) else states]

    return each(of, data)


def each(function: Callable[[Any], Any], data: Any) -> Any:
    """Return `data`, tensors or tuples, lists and dictionaries of them, with a function applied to each."""
    if isinstance(data, dict):
        return {key: each(function, value) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(each(function, value) for value in data)
    return function(data)


def leaves_of(data: Any) -> list[Any]:
    """Return what is in `data`, values or tuples, lists and dictionaries of them, in order."""
    leaves: list[Any] = []
    each(leaves.append, data)
    return leaves
