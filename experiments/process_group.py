"""Join the process group that torchrun describes, for a run on several ranks."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

from agents.ranks import Ranks

T = TypeVar("T")


class FirstRankError(Exception):
    """Rank 0 has reported an error, so this rank ends, too, without a message."""


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted() -> bool:
    """Return whether torchrun has started the ranks again, after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[Ranks]:
    """Join torchrun's process group for the block: with gloo on CPUs, with NCCL on GPUs.

    Args:
        device: the run's device; with "cuda", each rank of a machine uses the GPU of its local rank.
        timeout: seconds after which a collective that a rank does not join raises `RankError` on the others.
    """
    if not started_by_torchrun():
        yield Ranks()
        return
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield Ranks.current()
    finally:
        dist.destroy_process_group()


def on_first(ranks: Ranks, action: Callable[[], T], what: str) -> T:
    """Return the result of an action that only rank 0 performs, on every rank.

    Args:
        ranks: the ranks.
        action: takes no arguments; its result can be pickled.
        what: name of the result, for errors.

    Raises:
        Exception: rank 0's, on rank 0.
        FirstRankError: on all others.
    """
    if not ranks.several:
        return action()
    result: T | None = None
    error: Exception | None = None
    if ranks.rank == 0:
        try:
            result = action()
        except Exception as raised:
            error = raised
    told, failed = ranks.first((result, error is not None), what)
    if error is not None:
        raise error
    if failed:
        raise FirstRankError
    return told
