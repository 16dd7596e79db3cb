"""What may be overwritten, and is to be put back."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Snapshot:
    """The present values of tensors, and the state of an optimizer, to be put back.

    Args:
        tensors: as they are.
        optimizer: its moments and settings.
    """

    def __init__(self, tensors: Iterable[Tensor], optimizer: Optimizer | None = None):
        self._tensors = list(tensors)
        self._copies = [tensor.detach().clone() for tensor in self._tensors]
        self._optimizer = optimizer
        self._state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())

    def still_finite(self) -> bool:
        """Whether numbers of tensors and optimizer are finite now, but for those that were not before."""
        states = self._optimizer.state.values() if self._optimizer is not None else ()
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        unmasked = (
            torch.isfinite(tensor) | ~torch.isfinite(old)  # a mask may hold -inf for good
            for tensor, old in zip(self._tensors, self._copies, strict=True)
        )
        return all(bool(finite.all()) for finite in (*unmasked, *map(torch.isfinite, moments)))

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, bitwise."""
        for tensor, old in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(old)
        if self._optimizer is not None:
            self._optimizer.load_state_dict(self._state)  # type: ignore[arg-type]
