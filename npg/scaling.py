"""Scales that keep dot products within the range of the dtype."""

import torch
from torch import Tensor

from npg import host


def power_of_two(tensor: Tensor) -> Tensor:
    """Return a power of two near the largest entry's absolute value, 0-d; 1 if all entries are 0.

    Dividing by it changes no digit, so that a result that is scaled back has the same bits.
    """
    largest = tensor.abs().amax().to(host.scalar_dtype(tensor.device))
    return torch.where(largest > 0, torch.exp2(torch.floor(torch.log2(largest))), 1)
