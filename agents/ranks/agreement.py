"""Check that all ranks train the same agent."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from agents.ranks.ranks import RankError, Ranks


def check_same_settings(ranks: Ranks, settings: Mapping[str, Any]) -> None:
    """Check that every rank has rank 0's settings, compared as text.

    Raises:
        RankError: a rank has others; the message names them. It is raised on all ranks.
    """
    if not ranks.several:
        return
    first, *others = ranks.gather({name: str(value) for name, value in settings.items()}, "the settings")
    differences = [
        f"{name} is {own.get(name)!s:.200} on rank {rank} and {first.get(name)!s:.200} on rank 0"
        for rank, own in enumerate(others, 1)
        for name in first | own
        if own.get(name) != first.get(name)
    ]
    if differences:
        raise RankError(
            f"the ranks have different settings: {'; '.join(differences)}; start all of them with the same "
            "command and the same versions"
        )


def check_same_numbers(ranks: Ranks, tensors: Iterable[Tensor], when: str) -> None:
    """Check that tensors are bitwise equal on all ranks.

    Raises:
        RankError: they are not; the message has the ranks that differ from rank 0. It is raised on all ranks.
    """
    if not ranks.several:
        return
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    first, *others = ranks.gather(digest.digest(), "the checksum of the parameters")
    if different := [rank for rank, other in enumerate(others, 1) if other != first]:
        raise RankError(
            f"after {when}, the policy of rank {', '.join(map(str, different))} differs from rank 0's, so "
            "the ranks no longer train the same agent. Look for a callback that changes parameters on "
            "some ranks only, for a critic fit or Fisher operator that does not average over ranks, and for "
            "different processors"
        )
