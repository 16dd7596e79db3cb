"""Learning on several ranks: equal parameters, decisions taken together, errors on every rank."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrun import environment, run, torchrun


def results_of(folder: Path, ranks: int = 2) -> list[dict[str, Any]]:
    """Return what the ranks have stored."""
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(ranks)]


@pytest.mark.slow
def test_ranks_learn_together(tmp_path: Path) -> None:
    """Agents are bitwise equal on all ranks; what a rank decides or does wrong reaches all."""
    scenarios = ("learns", "stops", "settings", "seeds", "parameters", "normaliser")
    run(2, "--module", "rank_learning", tmp_path, *scenarios, folder=tmp_path)
    first, second = results_of(tmp_path)
    for name in ("learns", "seeds"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    # Rank 1 stops in its second rollout; rank 0 completes it and stops, too.
    assert first["stops"] == second["stops"] == 192
    for result in (first, second):
        assert "gamma is 0.91 on rank 1 and 0.9 on rank 0" in result["settings"]
        assert "the policy of rank 1 differs from rank 0's" in result["parameters"]
        assert "VecNormalize would have other statistics on each rank" in result["normaliser"]


@pytest.mark.slow
def test_ranks_stay_bitwise_equal(tmp_path: Path) -> None:
    """After 50 updates of every agent with every critic fit, in float32."""
    run(3, "--module", "rank_learning", tmp_path, "learns_long", folder=tmp_path)
    first, *others = results_of(tmp_path, 3)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["dies", "hangs"])
def test_no_rank_waits_forever(scenario: str, tmp_path: Path) -> None:
    """If a rank dies or hangs, the others raise an error that names what they waited for."""
    command = torchrun(2, "--module", "rank_learning", tmp_path, scenario)
    done = subprocess.run(command, cwd=tmp_path, env=environment(), timeout=120, capture_output=True)
    assert done.returncode == (1 if scenario == "dies" else done.returncode)
    message = torch.load(tmp_path / "rank-0.pt", weights_only=False)[scenario]
    assert message.startswith("RankError: rank 0 of 2 was waiting for the end of the rollout"), message
