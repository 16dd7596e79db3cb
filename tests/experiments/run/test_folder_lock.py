"""Locks of run folders, also on network file systems."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.run import folder_lock
from experiments.run.run_folder import RunFolder, RunInUseError


def refusing(number: int, *, always: bool) -> Any:
    """Return a `flock` that fails on folders, or always, as some file systems do."""
    flock = fcntl.flock

    def refuse(descriptor: int, operation: int) -> None:
        if always or os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    return refuse


@pytest.mark.parametrize("number", [None, errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_two_commands_in_one_folder(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is rejected, also where only files that are open for writing can be locked, as on NFS."""
    if number is not None:
        monkeypatch.setattr(folder_lock.fcntl, "flock", refusing(number, always=False))
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.claim()
    with pytest.raises(RunInUseError, match="another command is writing"):
        second.claim()
    first.close()
    assert second.create() is None
    second.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == ({"run"} if number is None else {"run", ".run.lock"})


def test_the_folder_in_place_of_an_unfinished_run_is_locked(tmp_path: Path) -> None:
    """The lock on the unfinished one has moved with it."""
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.path.mkdir()
    first.config.write_text("unfinished")
    assert first.create() == tmp_path / "run.unfinished-1"
    with pytest.raises(RunInUseError):
        second.claim()
    first.close()


def test_a_run_that_another_command_has_finished_meanwhile_stays(tmp_path: Path) -> None:
    """It was unfinished when this command looked, and waited for the lock."""
    folder = RunFolder(tmp_path / "run")
    folder.check_free()
    folder.path.mkdir()
    folder.evaluation.write_text("{}")
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        folder.create()
    folder.close()
    assert folder.finished and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_locks_a_command_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the folder and what to do."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", refusing(errno.ENOLCK, always=True))
    for _ in range(2):
        RunFolder(tmp_path / "run").claim()
    error = capsys.readouterr().err
    assert error.count("let no other command write into it") == 1 and str(tmp_path / "run") in error


def test_a_lock_is_not_made_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link at the name of the lock leads nowhere."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", refusing(errno.EBADF, always=False))
    (tmp_path / ".run.lock").symlink_to(tmp_path / "victim")
    RunFolder(tmp_path / "run").claim()
    assert not (tmp_path / "victim").exists()


def test_another_error_of_a_lock_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is not a file system without locks."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", refusing(errno.EIO, always=False))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        RunFolder(tmp_path / "run").claim()
