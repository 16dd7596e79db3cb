"""The number of threads that torch uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Number of multiplications above which a second thread saves time, as measured. MLPs of the usual sizes on a
# few dozen states need fewer; wide MLPs and image networks need more.
LEAST_SHARED = 10_000_000


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's number of threads inside the block, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def acting_threads(policy: nn.Module, n_envs: int) -> int:
    """Return the number of threads with which a policy is fastest on n_envs observations."""
    multiplications = n_envs * sum(parameter.numel() for parameter in policy.parameters())
    return 1 if multiplications < LEAST_SHARED else torch.get_num_threads()
