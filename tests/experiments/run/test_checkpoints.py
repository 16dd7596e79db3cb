"""The folder of checkpoints: what stays, what is found again, after any crash."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.rollout.finite import NonFiniteError
from experiments.run.checkpoint_file import CheckpointWriteError, read, write
from experiments.run.checkpoints import Checkpoints, NoValidCheckpointError
from experiments.run.plain_data import to_bytes

FORK = multiprocessing.get_context("fork")  # children begin within a millisecond


def content_of(step: int) -> dict[str, Any]:
    """Return what the checkpoint of a step holds, large enough for a kill to find it half-written."""
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": torch.randn(20_000, generator=generator), "state": [step, 2**90 + step]}


def is_content(content: Any, step: int) -> bool:
    """Whether it is that of this step, bit for bit."""
    return to_bytes(content) == to_bytes(content_of(step))


def stored(path: Path) -> Any:
    """Return the content of one checkpoint."""
    return read(path)["content"]


def names(folder: Path) -> list[str]:
    """Return the names of all files."""
    return sorted(path.name for path in folder.iterdir())


def name_of(step: int) -> str:
    """Return the name that the issue gives."""
    return f"checkpoint-{step:09d}.ckpt"


def saved(folder: Path, *steps: int, keep: int = 3) -> Checkpoints:
    """Return a folder with a checkpoint of every step."""
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        assert checkpoints.save(content_of(step), step=step) == folder / name_of(step)
    return checkpoints


def corrupt(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_last_ones_stay(tmp_path: Path) -> None:
    """And the newest comes first, also by steps of more digits."""
    checkpoints = saved(tmp_path / "checkpoints", 0, 12288, 999_999_999, 1_000_000_000)
    assert [path.name for path in checkpoints.paths()] == [
        "checkpoint-1000000000.ckpt",
        "checkpoint-999999999.ckpt",
        "checkpoint-000012288.ckpt",
    ]
    path, content = checkpoints.newest_valid()
    assert path == checkpoints.paths()[0]
    assert is_content(content, 1_000_000_000)
    assert is_content(stored(checkpoints.paths()[2]), 12288)


def test_the_best_stays(tmp_path: Path) -> None:
    """The first of the highest score, known to the next process too; a checkpoint without a score is none."""
    for step, score in enumerate([-5.0, 3, 3.0, np.float32(2.5), None, 1.0]):
        Checkpoints(tmp_path, keep=2).save(content_of(step), step=step, score=score)
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["best.ckpt", name_of(4), name_of(5)]
    assert is_content(stored(checkpoints.best), 1)
    checkpoints.save(content_of(6), step=6, score=3.5)
    assert is_content(stored(checkpoints.best), 6)


def test_the_best_is_written_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed between the two resumes before this step and repeats both."""
    written: list[str] = []
    monkeypatch.setattr("experiments.run.checkpoints.write", lambda path, _: written.append(path.name))
    Checkpoints(tmp_path).save(content_of(1), step=1, score=1.0)
    assert written == ["best.ckpt", name_of(1)]


def test_without_a_score_there_is_no_best(tmp_path: Path) -> None:
    """Nor a file of it."""
    assert names(saved(tmp_path, 1, 2).folder) == [name_of(1), name_of(2)]


def test_a_corrupt_best_gives_way(tmp_path: Path) -> None:
    """Its score is unknown."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content_of(1), step=1, score=9.0)
    corrupt(checkpoints.best)
    resumed = Checkpoints(tmp_path)
    resumed.save(content_of(2), step=2, score=1.0)
    assert is_content(stored(resumed.best), 2)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    """Before anything is written or deleted."""
    checkpoints = saved(tmp_path, 1, keep=1)
    for score in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(NonFiniteError, match="score"):
            checkpoints.save({}, step=2, score=score)
    with pytest.raises(NonFiniteError, match=r"content\.policy\.log_std"):
        checkpoints.save({"policy": {"log_std": torch.tensor(float("inf"))}}, step=2)
    assert names(tmp_path) == [name_of(1)]


def test_the_newest_valid_one_is_found_past_corrupt_ones(tmp_path: Path) -> None:
    """And says which were refused, and why."""
    checkpoints = saved(tmp_path, 1, 2, 3)
    corrupt(tmp_path / name_of(3))
    (tmp_path / name_of(2)).write_bytes(b"")
    path, content = checkpoints.newest_valid()
    assert path.name == name_of(1)
    assert is_content(content, 1)
    assert [error.path.name for error in checkpoints.rejected] == [name_of(3), name_of(2)]
    assert ["checksum" in error.reason for error in checkpoints.rejected] == [True, False]
    checkpoints.save(content_of(4), step=4)
    assert checkpoints.newest_valid()[0].name == name_of(4)
    assert checkpoints.rejected == []


def test_the_best_is_the_last_resort(tmp_path: Path) -> None:
    """Where no other is valid; it may be older than they, or of a future that a run has left."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content_of(1), step=1, score=1.0)
    checkpoints.save(content_of(2), step=2)
    for path in checkpoints.paths():
        corrupt(path)
    path, content = checkpoints.newest_valid()
    assert path == checkpoints.best
    assert is_content(content, 1)


def test_no_valid_one_names_all(tmp_path: Path) -> None:
    """Each with its reason; an empty or missing folder has none to name."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoValidCheckpointError, match=r"holds no valid checkpoint$"):
            Checkpoints(folder).newest_valid()
    checkpoints = saved(tmp_path, 1, 2)
    corrupt(tmp_path / name_of(1))
    write(tmp_path / name_of(2), {"another": "file"})
    with pytest.raises(NoValidCheckpointError) as caught:
        checkpoints.newest_valid()
    assert [error.path.name for error in caught.value.rejected] == [name_of(2), name_of(1)]
    assert f"{name_of(2)}: it has the format of a checkpoint, but" in str(caught.value)
    assert f"{name_of(1)}: its checksum differs" in str(caught.value)


def test_a_run_that_went_back_leaves_its_other_future(tmp_path: Path) -> None:
    """Corrupt or valid, later steps go, or they would count as the newest; the file just written stays."""
    checkpoints = saved(tmp_path, 10, 20, 30, 40, keep=3)
    corrupt(tmp_path / name_of(40))
    checkpoints.save(content_of(25), step=25)
    assert names(tmp_path) == [name_of(20), name_of(25)]
    assert checkpoints.newest_valid()[0].name == name_of(25)


def test_a_failed_write_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old checkpoints go when the new one is there, not to make room for it."""
    checkpoints = saved(tmp_path, 1, 2, keep=2)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointWriteError, match="No space left"):
        checkpoints.save(content_of(3), step=3, score=1.0)
    assert names(tmp_path) == [name_of(1), name_of(2)]


def test_other_files_stay(tmp_path: Path) -> None:
    """SB3's models, and whatever else lies there."""
    others = ["model_100_steps.zip", "checkpoint-000000001.ckpt.bak", "checkpoint-x.ckpt"]
    for name in others:
        (tmp_path / name).touch()
    saved(tmp_path, 1, 2, 3, keep=1)
    assert names(tmp_path) == sorted([*others, name_of(3)])


# Kills.


def dies_at(call: int, work: Callable[[], object]) -> None:
    """Do work, and be killed at the n-th call on a file: before it, or with half of its bytes there."""
    count = 0

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                if function is real["fsync"] and os.fstat(args[0]).st_size > 10_000:
                    os.ftruncate(args[0], 10_000)  # what a dead process had not yet written
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return called

    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink", "close")}
    for name, function in real.items():
        setattr(os, name, killing(function))
    work()
    os._exit(0)


@pytest.mark.parametrize("step", [25, 30])
def test_a_kill_at_every_call_leaves_a_valid_newest(tmp_path: Path, step: int) -> None:
    """Old or new, whole, and no fewer than were to be kept; the next save leaves no trace of the crash."""
    call, newest, best = 0, set(), set()
    while True:
        call += 1
        folder = tmp_path / str(call)
        checkpoints = saved(folder, 10, 20, keep=2)
        checkpoints.save(content_of(25), step=25, score=1.0)
        expected = {25, step}

        def work(checkpoints: Checkpoints = checkpoints, call: int = call) -> None:
            dies_at(call, lambda: checkpoints.save(content_of(step), step=step, score=2.0))

        process = FORK.Process(target=work)
        process.start()
        process.join()
        _, content = checkpoints.newest_valid()
        assert checkpoints.rejected == []
        assert content["step"] in expected
        assert is_content(content, content["step"])
        assert len(checkpoints.paths()) >= 2
        newest.add(content["step"])
        best_content = stored(checkpoints.best)
        assert is_content(best_content, best_content["step"])
        best.add(best_content["step"])
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        checkpoints.save(content_of(step), step=step, score=2.0)
        assert len(names(folder)) == 3
        assert checkpoints.newest_valid()[0].name == name_of(step)
        assert is_content(stored(checkpoints.best), step)
    assert call > 8
    assert newest == best == expected


def test_kills_at_random_times_leave_a_valid_newest(tmp_path: Path) -> None:
    """15 runs that save without a pause: each goes on from one of the last two that were begun."""
    checkpoints = saved(tmp_path, 0, keep=2)
    reached = FORK.Value("q", 0, lock=False)  # which a kill could leave locked
    randomness = np.random.default_rng(0)
    first = 0

    def work() -> None:
        step = first
        while True:
            step += 1
            reached.value = step
            checkpoints.save(content_of(step), step=step, score=float(step))

    for _ in range(15):
        process = FORK.Process(target=work)
        process.start()
        while reached.value < first + 2 and process.is_alive():  # until it has saved once
            time.sleep(0.001)
        time.sleep(randomness.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        _, content = checkpoints.newest_valid()
        assert checkpoints.rejected == []
        assert reached.value - 1 <= content["step"] <= reached.value
        assert is_content(content, content["step"])
        first = content["step"]
    assert first >= 15
    checkpoints.save(content_of(first + 1), step=first + 1, score=float(first + 2))
    assert names(tmp_path) == ["best.ckpt", name_of(first), name_of(first + 1)]


def test_a_deleted_folder_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody deletes it during a run: it is said, and the next best checkpoint counts as the best."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(content_of(1), step=1, score=5.0)
    shutil.rmtree(checkpoints.folder)
    checkpoints.save(content_of(2), step=2, score=1.0)
    assert names(checkpoints.folder) == ["best.ckpt", name_of(2)]
    assert "checkpoints was deleted by another program" in capsys.readouterr().err
