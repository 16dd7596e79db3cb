"""Scales that keep dot products within the range of the dtype."""

import torch
from torch import Tensor

from npg import host


def power_of_two(tensor: Tensor) -> Tensor:
    """Return a power of two near the largest absolute entry, 0-d; 1 if all entries are 0.

    Dividing by it is exact, so a result that is scaled back has the same bits.
    """
    largest = tensor.abs().amax().to(host.scalar_dtype(tensor.device))
    return torch.where(largest > 0, torch.exp2(torch.floor(torch.log2(largest))), 1)


def norm(vector: Tensor) -> Tensor:
    """Return ‖v‖, 0-d in the widest dtype, computed such that no square overflows or underflows."""
    scale = power_of_two(vector)
    length: Tensor = torch.linalg.vector_norm(vector / scale)
    return length.to(scale) * scale


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀb, 0-d in the widest dtype, computed such that no product overflows or underflows."""
    scales = power_of_two(a), power_of_two(b)
    return ((a / scales[0]) @ (b / scales[1])).to(scales[0]) * scales[0] * scales[1]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀb / ‖a‖‖b‖, 0-d in the widest dtype; 0 if one of them is 0."""
    a, b = a / power_of_two(a), b / power_of_two(b)
    lengths = norm(a) * norm(b)
    return dot(a, b) / torch.where(lengths > 0, lengths, 1)
