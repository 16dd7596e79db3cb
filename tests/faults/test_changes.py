"""A run that is resumed under other circumstances: named, refused, or allowed by --allow-changes."""

import csv
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from faults.comparison import differences, table
from faults.harness import SHORT, STEPS, Server, logs_of, run_folder
from faults.hostile_folders import checkpoint, having

ARGV = ("--algo", "npg", "--env", "CartPole-v1", "--vec-env", "dummy", *SHORT)
LONGER = [STEPS * 2 if word == STEPS else word for word in ARGV]


@pytest.fixture(scope="module")
def finished(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("finished") / "runs"
    assert server.run(logs_of(out), *ARGV, "--out", out).code == 0
    return run_folder(out, "npg", "CartPole-v1")


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that goes on from an earlier checkpoint."""
    folder = Path(shutil.copytree(finished, tmp_path / "stopped"))
    (folder / "evaluation.json").unlink()
    (folder / "checkpoints" / f"checkpoint-{STEPS:09d}.ckpt").unlink()
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, **changes: object) -> None:
    """Change settings in config.yaml."""
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text())
    hyperparameters = document["hyperparameters"]
    for name, value in changes.items():
        (hyperparameters if name in hyperparameters else document)[name] = value
    path.write_text(yaml.safe_dump(document))


def test_an_edited_config_is_refused_by_name(server: Server, stopped: Path) -> None:
    """The folder stays as it is; --allow-changes prints what changed and goes on, and so it does again."""
    edit(stopped, target_kl=0.5)
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped)
    assert started.code == 2 and contents(stopped) == before
    assert "hyperparameters.target_kl: 0.01 -> 0.5" in started.output and "--allow-changes" in started.output
    started = server.run(logs_of(stopped), "--resume", stopped, "--allow-changes")
    assert started.code == 0
    assert "changed: hyperparameters.target_kl: 0.01 -> 0.5" in started.output
    assert (stopped / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("package", "number"), [("torch", "1.0"), ("gymnasium", "0.1"), ("commit", "abc-dirty")]
)
def test_another_version_is_refused_by_name(server: Server, stopped: Path, package: str, number: str) -> None:
    """Numbers may differ from version to version of anything that computes them, or of this checkout."""
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped, faults=[["version", package, number]])
    assert started.code == 2 and contents(stopped) == before
    assert f"versions.{package}: " in started.output and f"-> {number}" in started.output


def test_another_device_is_refused_by_name(server: Server, stopped: Path) -> None:
    """The checkpoint is of a run on a GPU, say."""
    edit(stopped, device="meta")
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped)
    assert started.code != 0 and contents(stopped) == before
    assert "meta" in started.output


@pytest.mark.parametrize("change", [{"n_envs": 5}, {"policy_kwargs": {"net_arch": [8]}}])
def test_a_change_that_no_flag_can_allow(server: Server, stopped: Path, change: dict[str, object]) -> None:
    """Where the state does not fit what the settings describe: said so, and the folder stays as it is."""
    edit(stopped, **change)
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped, "--allow-changes")
    assert started.code == 2 and "Traceback" not in started.output, started.output
    assert contents(stopped) == before


def test_more_steps_extend_a_finished_run(server: Server, finished: Path, tmp_path: Path) -> None:
    """It ends as one that was told so from the start, but for the configuration of earlier checkpoints."""
    folder, whole = Path(shutil.copytree(finished, tmp_path / "extended")), tmp_path / "whole"
    assert server.run(logs_of(whole), *LONGER, "--out", whole).code == 0
    before = contents(folder)
    for words in ((), ("--steps", STEPS)):  # so that `until npg train --resume …` ends
        started = server.run(logs_of(folder), "--resume", folder, *words)
        assert started.code == 0 and "is finished, with 1024 steps; add --steps" in started.output
        assert contents(folder) == before
    started = server.run(logs_of(folder), "--resume", folder, "--steps", 2 * STEPS, "--allow-changes")
    assert started.code == 0, started.output
    assert differences(folder, run_folder(whole, "npg", "CartPole-v1"), every_checkpoint=False) == []


def test_two_commands_in_one_folder(server: Server, tmp_path: Path) -> None:
    """The second is refused, and the first goes on."""
    out = tmp_path / "runs"
    folder = run_folder(out, "npg", "CartPole-v1")
    first = server.start(logs_of(out), *ARGV, "--out", out, faults=[["slow_checkpoint", 0.15]])
    assert first.reach("checkpoint", 2)
    for argv in ((*ARGV, "--out", out), ("--resume", folder)):
        second = server.run(logs_of(out), *argv)
        assert second.code == 2 and "another command is writing into" in second.output
    assert first.wait() == 0, first.output


def test_an_environment_without_a_state(server: Server, tmp_path: Path) -> None:
    """The run resumes with new episodes, says so on stderr, and in the log's next row."""
    out = tmp_path / "runs"
    argv = [word if word != "CartPole-v1" else "Stateless-v0" for word in ARGV]
    folder = run_folder(out, "npg", "Stateless-v0")
    started = server.start(logs_of(out), *argv, "--out", out)
    assert started.reach("update", 5)
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert started.output.count("a resumed run will start new episodes: the attributes of") == 1
    resumed = server.run(logs_of(out), "--resume", folder)
    assert resumed.code == 0, resumed.output
    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [
        row["rollout/episodes_cut_by_resume"] for row in rows if row["rollout/episodes_cut_by_resume"]
    ] == ["4"]
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == [128 * k for k in range(1, 9)] + [STEPS]
    assert len(table(folder / "progress.csv")) == 10


@pytest.fixture(scope="module")
def finished_acktr(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of ACKTR."""
    out = tmp_path_factory.mktemp("finished_acktr") / "runs"
    assert server.run(logs_of(out), "--algo", "acktr", *ARGV[2:], "--out", out).code == 0
    return run_folder(out, "acktr", "CartPole-v1")


LAYER = "policy.mlp_extractor.policy_net.0/0"
FACTORS = ("agent", "parameters", "actor_stepper", "factors", LAYER)
INVERTED = ("agent", "parameters", "actor_stepper", "inverted", LAYER)
UNITS = ("agent", "parameters", "critic_stepper", "damping_units")
KRONECKER = {
    "another shape": (FACTORS, torch.ones(3, 3), "belong to another policy"),
    "one dimension": (INVERTED, torch.ones(25), "belong to another policy"),
    "integers": (FACTORS, torch.ones(5, 5, dtype=torch.int64), r"torch.int64"),
    "half precision": (INVERTED, torch.ones(5, 5, dtype=torch.float16), r"torch.float16"),
    "a text": (FACTORS, "x", "<class 'str'>"),
    "infinite as float32": (FACTORS, torch.full((5, 5), 1e300, dtype=torch.float64), "are not finite"),
    "no inverse": (INVERTED, -torch.ones(5, 5), "singular or not finite"),
    "no statistics": (FACTORS[:-1], {}, "with statistics"),
    "half an update": ((*FACTORS[:-2], "updates"), 2.5, "count of updates"),
    "negative updates": ((*FACTORS[:-2], "updates"), -1, "count of updates"),
    "an unknown unit": (UNITS, {"x": 1.0}, "damping units"),
    "a unit of 0": (UNITS, {"policy.value_net": 0.0}, "damping units"),
    "a unit that is a text": (UNITS, {"policy.value_net": "x"}, "damping units"),
}


@pytest.mark.parametrize("name", KRONECKER)
def test_crafted_kronecker_factors(server: Server, finished_acktr: Path, tmp_path: Path, name: str) -> None:
    """They are rejected with a message that names them, and the folder stays as it is."""
    names, value, message = KRONECKER[name]
    folder = Path(shutil.copytree(finished_acktr, tmp_path / "crafted"))
    (folder / "evaluation.json").unlink()
    checkpoint(having(*names, value=value))(folder, tmp_path)
    before = contents(folder)
    started = server.run(logs_of(folder), "--resume", folder)
    assert started.code == 2 and "Traceback" not in started.output, started.output
    assert "the checkpoint does not fit" in started.output and message in started.output
    assert contents(folder) == before
