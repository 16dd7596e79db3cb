"""Runs that are tracked: what a tracker receives, and that training does not depend on it."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import KVWriter

from experiments.run.csv_log import read_table
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.single_run import resume, run
from experiments.tracking import wandb_writer
from experiments.tracking.tracked_run import TrackedRun, numbers
from experiments.train import main

Row = tuple[int, dict[str, float]]


class Memory(KVWriter):
    """A tracker that keeps what it receives."""

    def __init__(self, made: TrackedRun):
        self.run, self.rows, self.closed = made, list[Row](), False

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Keep a row."""
        self.rows.append((step, numbers(key_values, key_excluded)))

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.fixture
def memories(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """Return the trackers that `--track my_tracker:make` has made, newest last."""
    made: list[Memory] = []

    def make(described: TrackedRun) -> Memory:
        made.append(Memory(described))
        return made[-1]

    def fail(described: TrackedRun) -> Memory:
        torch.rand(1)
        raise OSError("there is no such service")

    module = ModuleType("my_tracker")
    vars(module).update(make=make, fail=fail)
    monkeypatch.setitem(sys.modules, "my_tracker", module)
    return made


def arguments(out: Path, track: str, steps: int = 4 * 64) -> Arguments:
    """Return the arguments of a short run."""
    return Arguments(
        out=out,
        steps=steps,
        set=(("n_steps=32",),),
        n_envs=2,
        device="cpu",
        vec_env="dummy",
        episodes=1,
        checkpoint_every=2,
        track=track,
    )


def folder_of(out: Path) -> RunFolder:
    """Return the folder of the run."""
    return RunFolder.of(out, "CartPole-v1", "trpo", 0)


def logged(folder: RunFolder) -> list[dict[str, float]]:
    """Return the rows of progress.csv, without empty cells."""
    header, *lines = read_table(folder.progress)
    return [{name: float(cell) for name, cell in zip(header, line, strict=True) if cell} for line in lines]


def check_rows(rows: list[Row], folder: RunFolder) -> None:
    """Check that a tracker has each row of progress.csv, and then the final evaluation."""
    *rows, (step, final) = rows
    table = logged(folder)
    assert len(rows) == len(table) > 0
    for (at, row), expected in zip(rows, table, strict=True):
        assert at == expected["time/total_timesteps"]
        assert len(row) > 5 or "npg/rejected/no_improvement" not in expected  # the last row has train/ only
        assert repr(row) == repr({name: expected[name] for name in row})  # NaN equals NaN
    result = json.loads(folder.evaluation.read_text())
    assert step == result["steps"]
    assert {name: result[name.removeprefix("final/")] for name in final} == final
    assert "final/mean_return" in final


def test_a_tracker_receives_every_row(memories: list[Memory], tmp_path: Path) -> None:
    """And the settings, the group of the seeds, and the final evaluation."""
    assert run(arguments(tmp_path, "my_tracker:make")) == 0
    (memory,) = memories
    check_rows(memory.rows, folder_of(tmp_path))
    described = memory.run
    assert (described.name, described.group) == ("trpo CartPole-v1 seed 0", "CartPole-v1/trpo")
    assert described.settings["hyperparameters"]["n_steps"] == 32 and not described.resumed
    assert memory.closed


def test_a_resumed_run_continues_the_tracked_one(memories: list[Memory], tmp_path: Path) -> None:
    """The ID is the same, and rows that the run repeats are not sent twice."""
    assert run(arguments(tmp_path, "my_tracker:make")) == 0
    folder = folder_of(tmp_path)
    kept = sorted(folder.checkpoints.glob("checkpoint-*"))
    kept[-1].unlink()  # as after a crash: the newest checkpoint is of step 128
    folder.evaluation.unlink()
    assert resume(Arguments(resume=folder.path, import_=("my_tracker",))) == 0
    assert resume(Arguments(resume=folder.path, import_=("my_tracker",), steps=5 * 64)) == 0
    first, again, extended = memories
    assert first.run.id == again.run.id == extended.run.id
    assert again.run.resumed and extended.run.resumed
    assert [step for step, _ in again.rows] == [256]  # the final evaluation only
    assert [step for step, _ in extended.rows] == [320, 320, 320]


def test_a_failing_tracker_does_not_stop_the_training(
    memories: list[Memory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported, and the numbers are those of a run that is not tracked."""
    assert run(arguments(tmp_path / "a", "my_tracker:fail")) == 0
    assert "in the tracking" in capsys.readouterr().err
    assert run(arguments(tmp_path / "b", "")) == 0
    first, second = (json.loads(folder_of(tmp_path / name).evaluation.read_text()) for name in "ab")
    assert first["returns"] == second["returns"]
    assert not memories


def test_a_module_in_a_run_folder_is_not_imported(tmp_path: Path, memories: list[Memory]) -> None:
    """The user must name it; and unknown trackers are refused before anything is written."""
    assert run(arguments(tmp_path, "my_tracker:make", steps=64)) == 0
    with pytest.raises(ValueError, match="add --import my_tracker"):
        resume(Arguments(resume=folder_of(tmp_path).path, steps=128))
    assert main(arguments(tmp_path / "x", "nothing")) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("wandb", "{run}/wandb"), ("mlflow", "{out}/mlflow.db")])
def test_nothing_is_written_through_a_link(
    name: str,
    target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run folder that somebody else made may have one in the place of a tracker's files."""
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run(arguments(tmp_path, "", steps=64)) == 0
    folder, elsewhere = folder_of(tmp_path), tmp_path / "elsewhere"
    Path(target.format(run=folder.path, out=tmp_path)).symlink_to(elsewhere)
    config = folder.config.read_text()
    folder.config.write_text(config.replace("track: ''", f"track: {name}"))
    assert resume(Arguments(resume=folder.path, steps=128)) == 0
    assert "is a link" in capsys.readouterr().err and not elsewhere.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "trackio", "wandb"])
def test_the_real_trackers_are_read_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run and its extension, without a service, a package returns the numbers of progress.csv."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # where no service answers
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_writer, "TIMEOUT", 3.0)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # trackio reads it when it is imported
    pytest.importorskip(name)
    assert run(arguments(tmp_path, name)) == 0
    folder = folder_of(tmp_path)
    rows = READERS[name](folder)
    check_rows(rows, folder)
    assert resume(Arguments(resume=folder.path, steps=5 * 64)) == 0
    extended = READERS[name](folder)
    assert repr(extended[:6]) == repr(rows)
    # What came after the fourth update's row, at the end of the run, is in later rows of the extended one.
    check_rows(extended[:4] + extended[6:], folder)


def read_mlflow(folder: RunFolder) -> list[Row]:
    """Return the rows of the only run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.path.parents[2] / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'npg-toolkit'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["group"] == "CartPole-v1/trpo"
    assert found.data.params["n_steps"] == "32" and found.info.status == "FINISHED"
    rows: dict[int, Row] = {}
    for name in found.data.metrics:
        for metric in client.get_metric_history(found.info.run_id, name):
            rows.setdefault(metric.timestamp, (metric.step, {}))[1][name] = metric.value
    return [rows[time] for time in sorted(rows)]


def read_trackio(folder: RunFolder) -> list[Row]:
    """Return the rows of the only run."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = trackio.Api().runs("npg-toolkit")
    assert found.config["_Group"] == "CartPole-v1/trpo" and found.config["n_steps"] == 32
    logs = SQLiteStorage.get_logs("npg-toolkit", found.name)
    return [
        (log.pop("step"), {name: float(value) for name, value in log.items() if name != "timestamp"})
        for log in logs
    ]


def read_wandb(folder: RunFolder) -> list[Row]:
    """Return the rows of all files of the run, in wandb's own messages; it has no reader of files."""
    from wandb.proto import wandb_internal_pb2 as messages

    rows: list[Row] = []
    for path in sorted(folder.path.glob("wandb/offline-run-*/*.wandb")):
        end = time.monotonic() + 20
        while True:  # wandb's service may still be writing
            found = [messages.Record.FromString(payload) for payload in records(path.read_bytes())]
            if found and found[-1].HasField("exit"):
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        for record in found:
            if record.HasField("run"):
                assert record.run.run_group == "CartPole-v1/trpo"
                assert record.run.run_id == json.loads(folder.tracking.read_text())["id"]
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
                values = {k: float(json.loads(v)) for k, v in items.items() if not k.startswith("_")}
                rows.append((int(values.pop("time/total_timesteps")), values))
    return rows


def records(content: bytes) -> list[bytes]:
    """Return the records of a log in LevelDB's format, after wandb's header of 7 bytes."""
    found, parts, at = [], b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(parts)
            parts = b""
    return found


READERS = {"mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}
