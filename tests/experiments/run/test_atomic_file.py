"""Files of a run folder that may come from a stranger: neither written nor read through a link."""

import os
from pathlib import Path

import pytest

from agents.untrusted_file import MOST_SPARSE, UnsafeFileError, read_text, reading
from experiments.run.atomic_file import PARTIAL, replacing
from experiments.run.csv_log import CsvLog
from experiments.run.run_folder import RunFolder
from experiments.run.run_log import RunLog


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Whatever it leads to stays; links at predictable temporary names change nothing."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / f"{PARTIAL}{os.getpid()}-config.yaml").symlink_to(victim)
    for path in (folder.config, folder.progress, folder.evaluation):
        path.symlink_to(victim)
    folder.write_config({"a": 1})
    folder.write_evaluation({"returns": []})
    with pytest.raises(UnsafeFileError, match="is a link"):
        CsvLog(folder.progress)
    assert victim.read_text() == "mine"
    assert not folder.config.is_symlink() and folder.config.read_text() == "a: 1\n"


def test_a_temporary_file_is_never_an_existing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if somebody guessed its name: a link there is not followed."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f"{PARTIAL}{'0' * 16}-file").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "file"):
        pass
    assert victim.read_text() == "mine" and not (tmp_path / "file").exists()


def test_a_failure_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    """And nothing beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    """A link, a pipe (which is not waited for), a device and a large file are refused by name."""
    (tmp_path / "text").write_text("ß")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    for path, problem in (
        (tmp_path / "link", "link is a link"),
        (tmp_path / "pipe", "pipe is no regular file"),
        (Path("/dev/zero"), "/dev/zero is no regular file"),
        (tmp_path / "large", "large has 1099511627776 bytes"),
    ):
        with pytest.raises(UnsafeFileError, match=problem):
            reading(path)
    assert read_text(tmp_path / "text") == "ß"


def test_a_link_made_at_the_last_moment_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was checked that there is none."""
    (tmp_path / "text").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(OSError, match="link"):
        reading(tmp_path / "link")


def test_a_linked_checkpoint_folder_is_refused(tmp_path: Path) -> None:
    """Checkpoints are written and deleted only inside the run."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.checkpoints.symlink_to(tmp_path)
    with pytest.raises(UnsafeFileError, match="checkpoints is a link"):
        folder.claim()


@pytest.mark.parametrize("name", ["model.zip", "evaluation.json", "checkpoints/best.ckpt"])
def test_a_run_with_a_pipe_or_folder_for_a_file_is_refused(name: str, tmp_path: Path) -> None:
    """Before anything is written; a file could not be put there."""
    for make in (os.mkfifo, os.mkdir):
        folder = RunFolder(tmp_path / make.__name__)
        folder.checkpoints.mkdir(parents=True)
        make(folder.path / name)
        with pytest.raises(UnsafeFileError, match="is no regular file; delete it"):
            folder.claim()


def test_a_log_that_a_checkpoint_names_is_not_truncated_through_a_link(tmp_path: Path) -> None:
    """Nor is a file that is no log of TensorBoard."""
    victim, folder = tmp_path / "victim", RunFolder(tmp_path / "run")
    victim.write_text("mine")
    folder.path.mkdir()
    (folder.path / "events.out.tfevents.1").symlink_to(victim)
    folder.progress.write_text("a\n1\n")
    for name, problem in (
        ("events.out.tfevents.1", "is a link"),
        ("../victim", "names '../victim' as a log"),
        ("events.out.tfevents.2/../../victim", "as a log"),
    ):
        with pytest.raises((UnsafeFileError, ValueError), match=problem):
            RunLog(folder, {"csv": {"rows": 0, "columns": 0}, "events": {name: 0}})
    assert victim.read_text() == "mine" and folder.progress.read_text() == "a\n1\n"


def test_a_sparse_file_is_rejected(tmp_path: Path) -> None:
    """It would take memory without having taken room on a disk; a small one does no harm."""
    path = tmp_path / "file"
    path.write_text("x")
    os.truncate(path, MOST_SPARSE)
    reading(path).close()
    os.truncate(path, MOST_SPARSE + 1)
    with pytest.raises(UnsafeFileError, match="is sparse"):
        reading(path)


def test_a_log_with_another_name_is_copied_and_not_truncated(tmp_path: Path) -> None:
    """A hard link shares its content with a file elsewhere."""
    victim, folder = tmp_path / "victim", RunFolder(tmp_path / "run")
    victim.write_text("mine")
    folder.path.mkdir()
    (folder.path / "events.out.tfevents.1").hardlink_to(victim)
    RunLog(folder, {"csv": {"rows": 0, "columns": 0}, "events": {"events.out.tfevents.1": 2}})
    assert victim.read_text() == "mine"
    assert (folder.path / "events.out.tfevents.1").read_text() == "mi"


def test_an_event_log_that_lost_bytes_is_rejected(tmp_path: Path) -> None:
    """Before progress.csv is changed; a log that is missing has none."""
    folder = RunFolder(tmp_path)
    (tmp_path / "events.out.tfevents.1").write_text("four")
    folder.progress.write_text("a\n1\n")
    for name, found in (("events.out.tfevents.1", 4), ("events.out.tfevents.2", 0)):
        with pytest.raises(ValueError, match=f"{name} has {found} bytes, fewer than the checkpoint's 5; was"):
            RunLog(folder, {"csv": {"rows": 0, "columns": 0}, "events": {name: 5}})
    assert folder.progress.read_text() == "a\n1\n"


def test_event_logs_from_after_the_checkpoint_are_removed(tmp_path: Path) -> None:
    """The run repeats what is in them, and TensorBoard would show it twice."""
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        (tmp_path / f"events.out.tfevents.{number}").write_text("four")
    RunLog(folder, {"csv": {"rows": 0, "columns": 0}, "events": {"events.out.tfevents.1": 4}})
    assert (tmp_path / "events.out.tfevents.1").exists()
    assert not (tmp_path / "events.out.tfevents.2").exists()


def test_a_deleted_event_log_begins_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The position then has the new one."""
    folder = RunFolder(tmp_path)
    log = RunLog(folder)
    (first,) = log.position()["events"]
    (tmp_path / first).unlink()
    (second,) = log.position()["events"]
    assert (tmp_path / second).exists() and "was deleted by another program" in capsys.readouterr().err
