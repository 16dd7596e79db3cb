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
    known = hasattr(os, "sysconf")  # not on Windows
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else math.inf


def check_memory(shapes: Mapping[str, Sequence[tuple[int, ...]]], like: torch.Tensor) -> None:
    """Check that there is memory for the statistics of every module.

    Args:
        shapes: {module's name: shapes of its statistics}.
        like: a tensor with their dtype and device.

    Raises:
        ValueError: there is not; names the module that takes the most.
    """
    sizes = {name: like.itemsize * sum(map(math.prod, own)) for name, own in shapes.items()}
    if COPIES * sum(sizes.values()) > (available := memory_of(like.device)):
        name = max(sizes, key=lambda each: sizes[each])
        raise ValueError(
            f"the Kronecker factors of {name}, {' and '.join(map(str, shapes[name]))}, take "
            f"{sizes[name] / 1e9:.3g} GB; {COPIES} copies of all factors need more than the "
            f"{available / 1e9:.3g} GB of {like.device}. Use TRPO or NPG, which never store the Fisher "
            "matrix, or smaller layers"
        )
