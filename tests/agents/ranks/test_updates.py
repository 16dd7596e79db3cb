"""Updates on several ranks are those of one process on the joined batch."""

from pathlib import Path

import pytest
import torch
from rank_updates import CASES, FITS, MASKED, RECURRENT, Case, result_of
from torchrun import run

# One of each fit, with everything that is averaged; all others are slow.
FEW = [case for case in CASES if case.normalised and case.family in ("gaussian", "beta")]
FEW += [Case("trpo", "minibatch", RECURRENT, True), Case("npg", "lbfgs", MASKED, True)]


def check(ranks: int, cases: list[Case], folder: Path) -> None:
    """Compare the results of updates on ranks, started by torchrun, with those of this process."""
    run(ranks, "--module", "rank_updates", folder, *cases, folder=folder)
    results = [torch.load(folder / f"rank-{rank}.pt") for rank in range(ranks)]
    for case in cases:
        alone, (first, *others) = result_of(case), [result[str(case)] for result in results]
        torch.testing.assert_close(
            first, alone, rtol=1e-9, atol=1e-9, equal_nan=True, msg=f"{case}: {{}}".format
        )
        for other in others:  # bitwise
            torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)


def test_two_ranks_update_as_one_process(tmp_path: Path) -> None:
    """Parameters, statistics, counters and every logged value, for each agent and critic fit."""
    assert {(case.algo, case.fit) for case in FEW} >= {*FITS}
    check(2, FEW, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_update_as_one_process(ranks: int, tmp_path: Path) -> None:
    """With and without normalisers, with continuous and discrete actions."""
    check(ranks, CASES, tmp_path)
