"""Compare the memory that matrices take with that of the machine, before they are made."""

import math
import os
from collections.abc import Mapping, Sequence

import torch

COPIES = 3  # at the same time: the averages, new statistics, and the inverses


def memory_of(device: torch.device) -> float:
    """Return the bytes that a device has; infinity if that is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # on Windows
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(
    shapes: Mapping[str, Sequence[tuple[int, ...]]], dtype: torch.dtype, device: torch.device
) -> None:
    """Check that there is memory for the statistics of every module.

    Args:
        shapes: {module's name: shapes of its statistics}.
        dtype: of the statistics.
        device: that holds them.

    Raises:
        ValueError: naming the module that takes the most.
    """
    sizes = {name: dtype.itemsize * sum(map(math.prod, own)) for name, own in shapes.items()}
    if COPIES * sum(sizes.values()) > (available := memory_of(device)):
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"the Kronecker factors of {largest or 'the policy'}, {' and '.join(map(str, shapes[largest]))}, "
            f"take {sizes[largest] / 1e9:.3g} GB; {COPIES} copies of all factors do not fit the "
            f"{available / 1e9:.3g} GB of {device}. Use TRPO or NPG, whose Fisher matrix is never stored, or "
            "smaller layers"
        )
