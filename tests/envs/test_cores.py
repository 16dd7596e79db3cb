"""The cores that a process may use."""

import os

import pytest

from envs.cores import current_core, usable_cores


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not report ids")
def test_the_current_core_is_the_one_that_a_thread_is_bound_to() -> None:
    """On every core that this process may use."""
    allowed = os.sched_getaffinity(0)
    try:
        for core in allowed:
            os.sched_setaffinity(0, {core})
            assert current_core() == core
    finally:
        os.sched_setaffinity(0, allowed)
