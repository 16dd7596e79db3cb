"""Limit the memory and time for building a network by the size of its stored parameters."""

from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# Initialising a parameter makes several temporary tensors of its size; all other tensors are small.
TIMES, NUMBERS, CALLS = 50, 2_000_000, 10_000


class AllocationLimit(TorchFunctionMode):
    """While entered, raise ValueError if torch makes far more or larger tensors than the stored ones.

    A network that an untrusted config.yaml describes may take all memory, or hours, before its parameters
    can be compared with the stored ones. The check follows the allocation, but memory is not used before it
    is written to.

    Args:
        tensors: the stored tensors.
    """

    def __init__(self, tensors: Collection[Tensor]):
        super().__init__()
        self._numbers = TIMES * sum(tensor.numel() for tensor in tensors) + NUMBERS
        self._calls = TIMES * len(tensors) + CALLS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and count the tensor that it returns.

        Raises:
            ValueError: the limit is exceeded.
        """
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._numbers -= result.numel()
            self._calls -= 1
            if min(self._numbers, self._calls) < 0:
                raise ValueError("config.yaml describes a larger network than the file holds")
        return result
