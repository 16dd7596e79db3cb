"""The number of threads that torch uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Numbers of multiplications below which one thread is used, for acting and for an update. There a second one
# saves at most a sixth of the time, and costs a lot beside other processes, since threads wait for each
# other: with two other processes per core, updates took five to ten times as long. MLPs of the usual sizes on
# a few dozen states, or in updates on a few thousand, stay below; wide MLPs and image networks do not.
LEAST_SHARED = 10_000_000
LEAST_SHARED_UPDATE = 100_000_000


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
    """Return the number of threads for a policy that acts on n_envs observations."""
    return _threads_for(policy, n_envs, LEAST_SHARED)


def update_threads(policy: nn.Module, states: int) -> int:
    """Return the number of threads for a policy's gradients and products over so many states."""
    return _threads_for(policy, states, LEAST_SHARED_UPDATE)


def _threads_for(policy: nn.Module, states: int, least: int) -> int:
    multiplications = states * sum(parameter.numel() for parameter in policy.parameters())
    return 1 if multiplications < least else torch.get_num_threads()
