"""Means over states, taken at once or a micro-batch at a time."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from npg.linear_operator import LinearOperator
from npg.parameters import FlatParameters
from npg.reduction import Reduce
from npg.states import check_micro_batch_size, micro_batches


class StateSum(NamedTuple):
    """v ↦ Σ_s A_s v over some states, linearised at the present parameters.

    Attributes:
        product: (P,) -> (P,).
        states: how many.
    """

    product: Callable[[Tensor], Tensor]
    states: int


class StateMean(LinearOperator):
    """The mean 1/N Σ_s A_s of one matrix per state: the base class of most Fisher matrices.

    Without micro-batches the states are linearised once, and the graph is kept. With them a graph exists for
    one micro-batch and one product: memory does not grow with N, but every product linearises again.

    Args:
        parameters: of the matrix.
        linearise: makes the sum over the states of one part of the data.
        data: what `linearise` takes, every tensor with the states along its first dimension.
        micro_batch_size: states in a part; None for all of them.
        reduce: maps a local mean to the mean over all processes.

    Raises:
        ValueError: the micro-batches would be empty.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        linearise: Callable[..., StateSum],
        data: tuple[Any, ...],
        micro_batch_size: int | None,
        reduce: Reduce,
    ):
        check_micro_batch_size(micro_batch_size)
        super().__init__(*parameters.space)
        self._linearise = linearise
        self._data = data
        self._micro_batch_size = micro_batch_size
        self._reduce = reduce
        self._kept = linearise(*data) if micro_batch_size is None else None
        if micro_batch_size is not None:
            linearise(*next(micro_batches(data, micro_batch_size)))  # raise its errors here, as without

    def matvec(self, vector: Tensor) -> Tensor:
        """Return 1/N Σ_s A_s v."""
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
