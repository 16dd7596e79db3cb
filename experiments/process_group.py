"""Join the process group that torchrun describes, for a run on several ranks."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

from agents.ranks import RankError, Ranks

T = TypeVar("T")
ATTEMPT = "npg/attempt"  # key in a store
CONNECT = 5.0  # seconds to connect to a store


class FirstRankError(Exception):
    """Rank 0 has reported an error, so this rank ends, too, without a message."""


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launcher() -> str:
    """Return the part of this program's command line that starts its ranks; empty without torchrun."""
    if not started_by_torchrun():
        return ""
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} --no-python "


def restarted() -> bool:
    """Return whether torchrun has started the ranks again, after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[Ranks]:
    """Join torchrun's process group for the block: with gloo on CPUs, with NCCL on GPUs.

    Args:
        device: the run's device; with "cuda", each rank of a machine uses the GPU of its local rank.
        timeout: seconds after which a collective that a rank does not join raises `RankError` on the others.

    Raises:
        RankError: a rank did not start.
    """
    if not started_by_torchrun():
        yield Ranks()
        return
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, size, limit = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(seconds=timeout)
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=store_of_attempt(rank, timeout),
            rank=rank,
            world_size=size,
            timeout=limit,
        )
    except RuntimeError as error:
        raise RankError(f"rank {rank} of {size} could not join the others: {error!s:.300}") from error
    try:
        yield Ranks.current()
    finally:
        dist.destroy_process_group()


def store_of_attempt(rank: int, timeout: float) -> dist.Store:
    """Return a store that rank 0 has made for this attempt.

    torchrun keeps one store for all attempts (torch 2.13). There, a rank may read the address of one that
    died in an earlier attempt, and wait for it until the timeout. Only the new store's port comes from it.

    Raises:
        RuntimeError: there was no new store before the timeout, in seconds.
    """
    host, limit = os.environ["MASTER_ADDR"], timedelta(seconds=timeout)
    shared = dist.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=limit)
    if rank == 0:
        own = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
        attempt = uuid.uuid4().hex
        own.set(ATTEMPT, attempt)
        shared.set(ATTEMPT, f"{own.port} {attempt}")
        return own
    end = time.monotonic() + timeout
    while True:
        port, attempt = shared.get(ATTEMPT).decode().split()
        with suppress(RuntimeError, OSError):  # the port of an earlier attempt
            socket.create_connection((host, int(port)), CONNECT).close()  # TCPStore would wait, and log
            own = dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=CONNECT))
            if own.get(ATTEMPT).decode() == attempt:
                own.set_timeout(limit)
                return own
        if time.monotonic() > end:
            raise RuntimeError(f"rank 0 did not start within {timeout:g} s")
        time.sleep(0.1)


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
    shared, failed = ranks.first((result, error is not None), what)
    if error is not None:
        raise error
    if failed:
        raise FirstRankError
    return shared
