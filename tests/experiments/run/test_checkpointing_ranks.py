"""Signals and errors of a run on one rank and on several."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.ranks import ONE, RankError, Ranks
from experiments.failure import describe_failure
from experiments.run.checkpointing import Checkpointing
from experiments.run.checkpoints import Checkpoints
from experiments.run.stop_signals import Stopped, StopSignals


@pytest.mark.parametrize("ranks", [ONE, Ranks(1, 2)])
def test_an_overdue_signal_interrupts_the_rollout_of_one_rank_only(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several ranks would leave the others waiting, and no checkpoint: it completes its rollout."""
    signals = StopSignals()
    monkeypatch.setattr(signals, "_signal", 15)  # long ago
    take: Any = dict
    callback = Checkpointing(Checkpoints(tmp_path), take_rest=take, every=1, signals=signals)
    monkeypatch.setattr("experiments.run.checkpointing.ranks_of", lambda _: ranks)
    agent: Any = SimpleNamespace(get_env=lambda: None, logger=None, num_timesteps=0)
    callback.init_callback(agent)
    if ranks is ONE:
        with pytest.raises(Stopped, match="SIGTERM"):
            callback.on_step()
    else:
        assert callback.on_step()


def test_a_rank_that_does_not_answer_is_one_line() -> None:
    """Without a traceback: nothing in this process is wrong."""
    assert describe_failure(RankError("rank 1 of 2 waited"), "at step 5") == "error: rank 1 of 2 waited"
