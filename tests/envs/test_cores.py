"""The cores that a process may use."""

import os

import pytest

from envs.cores import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not report ids")
@pytest.mark.parametrize("cores", [{0}, {1, 3, 4}])
def test_the_ranks_of_a_machine_share_its_cores(cores: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own; with fewer cores than ranks, each has all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert usable_cores() == sorted(cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    shares = []
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        shares.append(usable_cores())
    assert shares == ([[1, 4], [3]] if len(cores) == 3 else [[0], [0]])
