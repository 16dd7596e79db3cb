"""Generators go on bit for bit after they were restored."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.run.checkpoint_file import read, write
from experiments.run.generators import restore_generators, take_generators
from experiments.run.plain_data import from_bytes, to_bytes


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Any:
    """Other tests go on with the numbers that they would have had."""
    state = take_generators()
    yield
    restore_generators(state)


def draw() -> list[Any]:
    """Draw from every global generator; an odd number of normals leaves one behind in each cache."""
    return [
        [random.gauss(0, 1) for _ in range(3)],
        random.random(),
        np.random.normal(size=3).tolist(),  # noqa: NPY002
        np.random.random(2).tolist(),  # noqa: NPY002
        torch.randn(3).tolist(),
        torch.randn(17, dtype=torch.float64).tolist(),
        torch.rand(2).tolist(),
        torch.randperm(5).tolist(),
        torch.normal(torch.zeros(1), torch.ones(1)).item(),
    ]


def seed_all(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@pytest.mark.parametrize("draws_before", range(3))
def test_global_generators_continue(draws_before: int, tmp_path: Path) -> None:
    """After other draws and other seeds, through a file: the same numbers again, cached normals included."""
    seed_all(3)
    for _ in range(draws_before):
        draw()
    write(tmp_path / "state", take_generators())
    expected = [draw() for _ in range(3)]
    assert expected[0] != expected[1]
    seed_all(4)
    draw()
    restore_generators(read(tmp_path / "state"))
    assert [draw() for _ in range(3)] == expected


def test_cached_normals_are_part_of_the_state() -> None:
    """Python's and numpy's legacy generators draw normals in pairs: the second must not be lost."""
    seed_all(0)
    random.gauss(0, 1)
    np.random.normal()  # noqa: NPY002
    state = take_generators()
    assert state["python"][2] is not None
    assert state["numpy"]["has_gauss"] == 1
    second = random.gauss(0, 1), np.random.normal()  # noqa: NPY002
    seed_all(0)
    restore_generators(from_bytes(to_bytes(state)))
    assert (random.gauss(0, 1), np.random.normal()) == second  # noqa: NPY002


def test_taking_draws_nothing() -> None:
    """And later draws leave the taken state alone."""
    seed_all(1)
    state = take_generators()
    before = to_bytes(state)
    first = draw()
    assert to_bytes(state) == before
    seed_all(1)
    assert draw() == first


def test_another_number_of_gpus_is_refused() -> None:
    """By name, before anything is set; without states of GPUs all others are."""
    state = take_generators()
    first = draw()
    after = to_bytes(take_generators())
    wrong = state | {"cuda": [state["torch"]] * (torch.cuda.device_count() + 1)}
    with pytest.raises(ValueError, match=r"GPUs were saved and \d+ are here"):
        restore_generators(wrong)
    assert to_bytes(take_generators()) == after
    restore_generators(wrong | {"cuda": []})
    assert draw() == first


@pytest.mark.gpu
def test_gpu_generators_continue() -> None:
    """Every device's, also at an odd place in its counter."""
    torch.cuda.manual_seed_all(2)
    devices = range(torch.cuda.device_count())
    for n in range(1, 8):
        for device in devices:
            torch.randn(n, device=f"cuda:{device}")
        state = from_bytes(to_bytes(take_generators()))
        expected = [torch.randn(5, device=f"cuda:{device}").tolist() for device in devices]
        torch.cuda.manual_seed_all(9)
        restore_generators(state)
        assert [torch.randn(5, device=f"cuda:{device}").tolist() for device in devices] == expected
