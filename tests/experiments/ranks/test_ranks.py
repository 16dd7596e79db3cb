"""torchrun train.py: one run on several ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from faults.comparison import differences, read_model, same, table
from torchrun import ROOT, environment, run, torchrun

from agents.ranks import Ranks
from experiments.process_group import launcher
from experiments.run.checkpoint_file import read
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.train import dispatch
from experiments.training_envs import check_ranks, environments_of

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


def ranks_below(started: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of the ranks, in order."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    return sorted(map(int, children.read_text().split()))


def wait_for(condition: object, started: subprocess.Popen[str], timeout: float = 120) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    end = time.monotonic() + timeout
    while not condition():
        assert started.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def newest(folder: Path) -> str:
    """Return the name of a run's newest checkpoint."""
    return max((path.name for path in (folder / "checkpoints").glob("checkpoint-*.ckpt")), default="")


def seed_0(folder: Path, algo: str, env: str = "CartPole-v1") -> Path:
    """Return the folder of the run with seed 0."""
    return folder / env / algo / "seed-0"


def test_a_run_on_two_ranks_is_one_run(tmp_path: Path) -> None:
    """Steps and episodes are counted over both ranks, of which one writes."""
    options = (
        "--algo",
        "npg",
        "--steps",
        900,
        "--n-envs",
        5,
        *SHORT,
        "--set",
        "n_steps=64",
        "--out",
        tmp_path,
    )
    run(2, TRAIN, *options, folder=tmp_path)
    folder = seed_0(tmp_path, "npg")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["ranks"], config["n_envs"]) == (2, 5)
    names, first, *_ = table(folder / "progress.csv")
    logged = dict(zip(names, first, strict=True))
    assert float(logged["time/total_timesteps"]) == 5 * config["hyperparameters"]["n_steps"]
    assert json.loads((folder / "evaluation.json").read_text())["episodes"] == 3


def test_what_cannot_be_shared_is_rejected() -> None:
    """Before anything is built; `environments_of` shares the rest, with at most one more on a rank."""
    settings = resolve(Arguments(algo=("npg",), n_envs=5))
    assert environments_of(settings, Ranks(0, 3)) == [2, 2, 1]
    check_ranks(settings, Ranks(0, 5))
    with pytest.raises(ValueError, match="5 environments cannot be shared by 6 ranks; raise --n-envs"):
        check_ranks(settings, Ranks(0, 6))
    with pytest.raises(ValueError, match="sb3:ppo trains in one process; start it without torchrun"):
        check_ranks(replace(settings, algo="sb3:ppo"), Ranks(0, 2))
    with pytest.raises(ValueError, match="torchrun makes one run on several ranks"):
        dispatch(Arguments(seeds=2), Ranks(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["vpg", "npg", "trpo", "acktr"])
def test_kills_leave_no_trace(algo: str, tmp_path: Path) -> None:
    """After SIGKILLs of random ranks at random moments, the run folder is that of an uninterrupted run."""
    options = ("--algo", algo, "--steps", 90_000, *SHORT)
    started = start(tmp_path / "whole", 2, *options)
    assert started.wait(300) == 0
    generator, kills = random.Random(algo), 0
    folder = seed_0(tmp_path / "killed", algo)
    started = start(tmp_path / "killed", 2, *options, restarts=5)
    while kills < 5 and started.poll() is None:
        ranks, saved = ranks_below(started), newest(folder)
        if generator.random() < 0.8:  # in training, else while it starts
            wait_for(lambda saved=saved: newest(folder) != saved, started)
        time.sleep(generator.uniform(0, 2))
        if started.poll() is None and ranks and ranks_below(started) == ranks:
            os.kill(generator.choice(ranks), signal.SIGKILL)
            kills += 1
            wait_for(
                lambda ranks=ranks: len(ranks_below(started)) == 2 and ranks_below(started) != ranks,
                started,
            )
    assert started.wait(300) == 0, (tmp_path / "killed" / "output").read_text()
    assert differences(folder, seed_0(tmp_path / "whole", algo)) == []
    assert kills == 5


def test_the_command_that_resumes_starts_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torchrun, if torchrun has started this process."""
    assert launcher() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert f"{launcher()}{Arguments(resume=Path('run'))}" == (
        "torchrun --nproc-per-node 2 --no-python python train.py --resume run"
    )


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(tmp_path: Path) -> None:
    """All save one checkpoint and end; resuming on both ranks gives the run that was left alone."""
    options = ("--algo", "trpo", "--steps", 20_000, *SHORT)
    run(2, TRAIN, *options, "--out", tmp_path / "whole", folder=tmp_path)
    started, folder = start(tmp_path / "stopped", 2, *options), seed_0(tmp_path / "stopped", "trpo")
    wait_for(lambda: newest(folder) > "checkpoint-000000000.ckpt", started)
    os.kill(ranks_below(started)[1], signal.SIGTERM)
    assert started.wait(120) != 0
    output = (tmp_path / "stopped" / "output").read_text()
    assert "stopped by SIGTERM; the run can be resumed" in output
    assert "RankError" not in output
    assert not (folder / "evaluation.json").exists()
    run(2, TRAIN, "--resume", folder, folder=tmp_path)
    assert differences(folder, seed_0(tmp_path / "whole", "trpo"), every_checkpoint=False) == []


@pytest.mark.slow
def test_another_number_of_ranks_needs_permission(tmp_path: Path) -> None:
    """A run of two ranks goes on in one process, with new episodes, only if changes are allowed."""
    options = ("--algo", "npg", "--steps", 2000, *SHORT, "--n-envs", 4, "--out", tmp_path)
    run(2, TRAIN, *options, folder=tmp_path)
    folder = seed_0(tmp_path, "npg")
    again = [sys.executable, TRAIN, "--resume", folder, "--steps", "4000"]

    def resume(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, again), *more], env=environment(), capture_output=True, text=True, check=False
        )

    refused = resume()
    assert (refused.returncode, "ranks: 2 -> None" in refused.stderr) == (2, True)
    allowed = resume("--allow-changes")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads((folder / "evaluation.json").read_text())["steps"] >= 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--n-envs", "1"), "1 environments cannot be shared by 2 ranks; raise --n-envs"),
        (("--set", "gamma=2"), "gamma must be"),
    ],
)
def test_errors_of_a_run_on_ranks(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """Every rank exits with code 2, and nothing is written."""
    started = start(tmp_path, 2, *options)
    assert started.wait(120) == 1  # torchrun's own
    output = (tmp_path / "output").read_text()
    assert message in output
    assert output.count("exitcode  : 2") >= 1
    assert not (tmp_path / "CartPole-v1").exists()


@pytest.mark.slow
def test_evaluations_do_not_change_the_training_of_several_ranks(tmp_path: Path) -> None:
    """The first rank evaluates while the other waits; the best checkpoint has the state of both."""
    models, options = [], ("--algo", "npg", "--steps", 1000, "--n-envs", 4, "--set", "n_steps=64", *SHORT)
    for every in (2, 0):
        out = tmp_path / str(every)
        out.mkdir()
        run(2, TRAIN, *options, "--eval-every", every, "--out", out, folder=out)
        models.append(read_model(seed_0(out, "npg") / "model.zip"))
    assert all(same(models[0][name], value) for name, value in models[1].items())
    folder = seed_0(tmp_path / "2", "npg")
    names, *rows = table(folder / "progress.csv")
    found = [row[names.index("eval/mean_reward")] for row in rows]
    assert [k for k, cell in enumerate(found) if cell] == [0, 2, 4]
    best = read(folder / "checkpoints" / "best.ckpt")
    assert best["score"] == max(float(cell) for cell in found if cell)
    assert len(best["content"]["ranks"]) == 1
