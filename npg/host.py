"""Host reads: all numbers that an update copies from the device to the host go through this module.

A read from a GPU waits until all work queued before it is done, so an update reads as rarely as possible:
once per solve and once per candidate step. In between, everything stays on the device: decisions are made by
`torch.where`, not by `if`. Tests replace `read`, `read_vector` and `peek` to count the reads, or to run an
update on the meta device, which has no numbers to read.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def read(**scalars: Tensor) -> dict[str, float]:
    """Return scalar tensors as Python numbers by name, in a single transfer.

    Args:
        scalars: 0-d tensors on one device. Integers up to 2⁵³ and floats up to float64 arrive exactly; a bool
            arrives as 0 or 1.
    """
    return read_vector(scalars, stack(scalars)) if scalars else {}


def stack(scalars: Mapping[str, Tensor]) -> Tensor:
    """Return scalar tensors (at least one) as a vector, still on the device, for `read_vector`."""
    dtype = scalar_dtype(next(iter(scalars.values())).device)
    return torch.stack([scalar.detach().to(dtype) for scalar in scalars.values()])


def read_vector(names: Iterable[str], vector: Tensor) -> dict[str, float]:
    """Return the entries of a vector as Python numbers by name."""
    return dict(zip(names, vector.tolist(), strict=True))


def fetch(*tensors: Tensor) -> list[Tensor]:
    """Return copies of tensors on the CPU, once all of them have been computed."""
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]


def peek(condition: Tensor) -> bool | None:
    """Return a condition (0-d) if reading it costs nothing, i.e. on the CPU; None on any other device.

    For shortcuts only: the result of an algorithm must be the same without them.
    """
    return bool(condition) if condition.device.type == "cpu" else None


def scalar_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating-point dtype of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
