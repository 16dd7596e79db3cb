"""Store and restore the values of tensors and the state of an optimizer."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Snapshot:
    """A copy of tensors and of an optimizer's state, which `restore` writes back.

    Args:
        tensors: the tensors to copy.
        optimizer: the optimizer whose moments and settings to copy.
    """

    def __init__(self, tensors: Iterable[Tensor], optimizer: Optimizer | None = None):
        self._tensors = list(tensors)
        self._copies = [tensor.detach().clone() for tensor in self._tensors]
        self._optimizer = optimizer
        self._state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())

    def still_finite(self) -> Tensor:
        """Return whether the optimizer's state and all numbers that were finite before are finite, 0-d."""
        states = self._optimizer.state.values() if self._optimizer is not None else ()
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        unmasked = (
            torch.isfinite(tensor) | ~torch.isfinite(old)  # e.g. the -inf of a mask
            for tensor, old in zip(self._tensors, self._copies, strict=True)
        )
        checks = [finite.all() for finite in (*unmasked, *map(torch.isfinite, moments))]
        # Adam's step counts are on the CPU, even if its moments are on a GPU.
        device = checks[0].device
        return torch.stack([check for check in checks if check.device == device]).all()

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything, bitwise."""
        for tensor, old in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(old)
        if self._optimizer is not None:
            self._optimizer.load_state_dict(self._state)  # type: ignore[arg-type]
