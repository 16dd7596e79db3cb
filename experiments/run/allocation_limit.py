"""Bound what building a network takes, by what a file holds of it."""

from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# Initialising a parameter makes some temporary tensors of its size; further ones are small.
TIMES, NUMBERS, CALLS = 50, 2_000_000, 10_000


class AllocationLimit(TorchFunctionMode):
    """While entered, raise ValueError if tensors are made that are more or larger than those of a file.

    A network that an untrusted config.yaml describes may take all memory, or hours, before its parameters
    can be compared with the stored ones. Memory is taken as it is written, and so only after the check.

    Args:
        tensors: of the file.
    """

    def __init__(self, tensors: Collection[Tensor]):
        super().__init__()
        self._numbers = TIMES * sum(tensor.numel() for tensor in tensors) + NUMBERS
        self._calls = TIMES * len(tensors) + CALLS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and count the tensor that it returns."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._numbers -= result.numel()
            self._calls -= 1
            if min(self._numbers, self._calls) < 0:
                raise ValueError("config.yaml describes a larger network than the file holds")
        return result
