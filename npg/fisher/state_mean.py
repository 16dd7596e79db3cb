"""Means over states, taken at once or a micro-batch at a time."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from npg.reduction import Reduce


class StateSum(NamedTuple):
    """v ↦ Σ_s A_s v over some states, linearised at the present parameters.

    Attributes:
        product: (P,) -> (P,).
        states: how many.
    """

    product: Callable[[Tensor], Tensor]
    states: int


class StateMean:
    """v ↦ 1/N Σ_s A_s v.

    Without micro-batches the states are linearised once, and the graph is kept. With them a graph lives
    for one micro-batch and one product: memory no longer grows with N, at the price of linearising anew.

    Args:
        linearise: makes the sum over the states of one part of the data.
        data: what `linearise` takes, every tensor with the states along its first dimension.
        micro_batch_size: states in a part; None for all of them.
        reduce: maps a local mean to the mean over all processes.

    Raises:
        ValueError: the micro-batches would be empty.
    """

    def __init__(
        self,
        linearise: Callable[..., StateSum],
        data: tuple[Any, ...],
        micro_batch_size: int | None,
        reduce: Reduce,
    ):
        self._linearise = linearise
        self._data = data
        self._micro_batch_size = micro_batch_size
        self._reduce = reduce
        check_micro_batch_size(micro_batch_size)
        self._kept = linearise(*data) if micro_batch_size is None else None
        if micro_batch_size is not None:
            linearise(*next(micro_batches(data, micro_batch_size)))  # what is wrong shows here, as without

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (P,)."""
        total, states = None, 0
        for part in self._parts():
            product = part.product(vector)
            total = product if total is None else total.add_(product)
            states += part.states
        assert total is not None
        return self._reduce(total / states)

    def _parts(self) -> Iterator[StateSum]:
        if self._kept is not None:
            yield self._kept
            return
        assert self._micro_batch_size is not None
        for part in micro_batches(self._data, self._micro_batch_size):
            yield self._linearise(*part)


def check_micro_batch_size(size: int | None) -> None:
    """Check that micro-batches have states.

    Raises:
        ValueError: they have none.
    """
    if size is not None and size < 1:
        raise ValueError(f"micro_batch_size must be at least 1 state, or None for all at once; got {size}")


def micro_batches(data: Any, size: int) -> Iterator[Any]:
    """Yield `data`, tensors or tuples, lists and dictionaries of them, `size` states at a time.

    Raises:
        TypeError: something in it is no tensor.
        ValueError: there is no state, or the tensors differ in length.
    """
    states = count_states(data)
    if states == 0:
        raise ValueError("expected at least one state, got an empty batch of observations")
    for start in range(0, states, size):
        yield select(data, slice(start, start + size))


def count_states(data: Any) -> int:
    """Return the length of every tensor in the data.

    Raises:
        TypeError: something in it is no tensor.
        ValueError: the lengths differ, or there is no tensor.
    """
    lengths = set(_lengths(data))
    if len(lengths) != 1:
        raise ValueError(f"micro-batches need tensors of one length, the states; got {sorted(lengths)}")
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
    """Return some states of `data`, tensors or tuples, lists and dictionaries of them.

    Args:
        data: every tensor with the states along its first dimension.
        states: which ones, as an index of that dimension.
    """
    return each(lambda tensor: tensor[states], data)


def each(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """Return `data`, tensors or tuples, lists and dictionaries of them, with a function of every tensor."""
    if isinstance(data, dict):
        return {key: each(function, value) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(each(function, value) for value in data)
    return function(data)
