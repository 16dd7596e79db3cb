"""Means over states, computed all at once or one micro-batch at a time."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from npg.distributions import Coordinates, Distribution
from npg.fisher.linearisation import AnyJacobian, jacobian_at
from npg.linear_operator import LinearOperator
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity
from npg.states import check_micro_batch_size, micro_batches


class StateSum(NamedTuple):
    """v ↦ Σ_s A_s v over some states, linearised at the current parameters.

    Attributes:
        product: (P,) -> (P,).
        states: the number of states.
    """

    product: Callable[[Tensor], Tensor]
    states: int


class StateMean(LinearOperator):
    """The mean 1/N Σ_s A_s of one matrix per state: the base class of most Fisher matrices.

    A subclass implements `linearise`, the sum over some states. Without micro-batches, all states are
    linearised once and the graph is kept. With micro-batches, memory does not grow with N, but every product
    linearises the states again, one micro-batch at a time, at a copy of the parameters.

    Args:
        actor: a module whose forward maps observations to an npg distribution. Put it in evaluation
            mode: with dropout, every pass would use a different network.
        observations: input of `actor`, N states.
        further: more data for `linearise`, every tensor with the states along its first dimension.
        micro_batch_size: states linearised at a time, which limits the memory; None keeps one graph of all
            N, which makes products faster.
        reduce: maps the mean over this process's states to that over all processes; see `npg.reduction`.

    Raises:
        ValueError: there is no state, the distribution depends on no trainable parameter, or
            micro_batch_size < 1.
        TypeError: the actor does not return an npg distribution, or cannot be differentiated.
    """

    copies_parameters: ClassVar[bool] = False  # even without micro-batches
    exact: ClassVar[bool] = True  # whether to use finite differences only if necessary

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *further: Any,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        check_micro_batch_size(micro_batch_size)
        self.parameters = FlatParameters(actor)
        super().__init__(*self.parameters.space)
        copied = self.copies_parameters or micro_batch_size is not None
        self._actor = actor
        self._theta = self.parameters.copies() if copied else None
        self._data = (observations, *further)
        self._micro_batch_size = micro_batch_size
        self._reduce = reduce
        self._kept: StateSum | None = None
        with torch.enable_grad():
            if micro_batch_size is None:
                self._kept = self.linearise(*self._data)
            else:  # so that errors are raised here, as without micro-batches
                self.linearise(*next(micro_batches(self._data, micro_batch_size)))

    @abstractmethod
    def linearise(self, observations: Any, *further: Any) -> StateSum:
        """Return Σ_s A_s over the given states, at `tensors`."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters to differentiate by."""
        return self.parameters.tensors if self._theta is None else tuple(self._theta.values())

    def policy(self, observations: Any) -> Distribution:
        """Return the actor's distributions at the observations, as a function of `tensors`."""
        return evaluate(self._actor, observations, self._theta)

    def jacobian(
        self, observations: Any, outputs_of: Callable[[Distribution], Coordinates]
    ) -> tuple[Distribution, AnyJacobian]:
        """Return the policy, and the Jacobian of functions of it, such as its coordinates."""
        tensors = dict(zip(self.parameters.names, self.tensors, strict=True))
        return jacobian_at(
            self._actor, observations, tensors, outputs_of, theta=self._theta, exact=self.exact
        )

    def matvec(self, vector: Tensor) -> Tensor:
        """Return 1/N Σ_s A_s v."""
        total, states = None, 0
        for part in self._parts():
            product = part.product(vector)
            total = product if total is None else total.add_(product)
            states += part.states
        assert total is not None
        return self._reduce(total / states, states)

    def _parts(self) -> Iterator[StateSum]:
        if self._kept is not None:
            yield self._kept
            return
        assert self._micro_batch_size is not None
        for part in micro_batches(self._data, self._micro_batch_size):
            with torch.enable_grad():
                linearised = self.linearise(*part)
            yield linearised
