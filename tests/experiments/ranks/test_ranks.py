"""torchrun train.py: one run on several ranks."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from faults.comparison import differences, table
from torchrun import ROOT, environment, run, torchrun

TRAIN = ROOT / "train.py"
SHORT = ("--episodes", 3, "--checkpoint-every", 2, "--vec-env", "dummy")


def start(folder: Path, ranks: int, *options: object, restarts: int = 0) -> subprocess.Popen[str]:
    """Start train.py on several ranks, with its output in a file of the folder."""
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("a") as output:
        return subprocess.Popen(
            torchrun(ranks, TRAIN, *options, "--out", folder, restarts=restarts),
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def ranks_below(launcher: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of the ranks, in order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return sorted(map(int, children.read_text().split()))


def wait_for(condition: object, launcher: subprocess.Popen[str], timeout: float = 120) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    end = time.monotonic() + timeout
    while not condition():
        assert launcher.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def newest(folder: Path) -> str:
    """Return the name of a run's newest checkpoint."""
    return max((path.name for path in (folder / "checkpoints").glob("checkpoint-*.ckpt")), default="")


def seed_0(folder: Path, algo: str, env: str = "CartPole-v1") -> Path:
    """Return the folder of the run with seed 0."""
    return folder / env / algo / "seed-0"


def test_a_run_on_two_ranks_is_one_run(tmp_path: Path) -> None:
    """Steps and episodes are counted over both ranks, and the same command gives the same bits."""
    for name in ("first", "second"):
        options = ("--algo", "npg", "--steps", 6000, "--n-envs", 5, *SHORT, "--out", tmp_path / name)
        run(2, TRAIN, *options, folder=tmp_path)
    folder = seed_0(tmp_path / "first", "npg")
    assert differences(folder, seed_0(tmp_path / "second", "npg")) == []
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["ranks"], config["n_envs"]) == (2, 5)
    names, first, *_ = table(folder / "progress.csv")
    logged = dict(zip(names, first, strict=True))
    assert float(logged["time/total_timesteps"]) == 5 * config["hyperparameters"]["n_steps"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["vpg", "npg", "trpo", "acktr"])
def test_kills_leave_no_trace(algo: str, tmp_path: Path) -> None:
    """After SIGKILLs of random ranks at random moments, the run folder is that of an uninterrupted run."""
    options = ("--algo", algo, "--steps", 30_000, *SHORT)
    launcher = start(tmp_path / "whole", 2, *options)
    assert launcher.wait(300) == 0
    generator, kills = random.Random(algo), 0
    folder = seed_0(tmp_path / "killed", algo)
    launcher = start(tmp_path / "killed", 2, *options, restarts=5)
    while kills < 5 and launcher.poll() is None:
        ranks, saved = ranks_below(launcher), newest(folder)
        if generator.random() < 0.8:  # in training, else while it starts
            wait_for(lambda saved=saved: newest(folder) != saved, launcher)
        time.sleep(generator.uniform(0, 2))
        if launcher.poll() is None and ranks_below(launcher) == ranks:
            os.kill(generator.choice(ranks), signal.SIGKILL)
            kills += 1
            wait_for(
                lambda ranks=ranks: len(ranks_below(launcher)) == 2 and ranks_below(launcher) != ranks,
                launcher,
            )
    assert launcher.wait(300) == 0, (tmp_path / "killed" / "output").read_text()
    assert differences(folder, seed_0(tmp_path / "whole", algo)) == []
    assert kills == 5
