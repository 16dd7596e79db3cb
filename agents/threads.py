"""How many threads torch may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Multiplications above which a second thread was measured to gain more than it waits: below lie MLPs of the
# usual sizes on a few dozen states, above them wide ones and image networks.
LEAST_SHARED = 10_000_000


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def acting_threads(policy: nn.Module, n_envs: int) -> int:
    """Return how many threads make a policy fastest on the observations of n_envs environments."""
    multiplications = n_envs * sum(parameter.numel() for parameter in policy.parameters())
    return 1 if multiplications < LEAST_SHARED else torch.get_num_threads()
