"""The record of a run folder's owner, which protects it from other hosts."""

import json
import os
import threading
from pathlib import Path

import pytest

from experiments.run import folder_owner
from experiments.run.run_folder import RunFolder, RunInUseError

ELSEWHERE = {"host": "node-7", "kernel": "another", "process": 123, "time": "2026-01-01T00:00:00"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for less than a second."""
    monkeypatch.setattr(folder_owner, "STALE", 0.4)
    monkeypatch.setattr(folder_owner, "POLL", 0.02)
    monkeypatch.setattr(folder_owner, "BEAT", 0.05)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Return the path of the record of the folder `run`."""
    return tmp_path / ".run.owner"


def test_an_owner_is_recorded_until_it_closes(tmp_path: Path, record: Path) -> None:
    """With host, process and time; nothing is left."""
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    found = json.loads(record.read_text())
    assert found.keys() == ELSEWHERE.keys() and found["process"] == os.getpid()
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_of_a_live_owner_elsewhere_is_in_use(tmp_path: Path, record: Path) -> None:
    """The error names it; the record stays, and the lock is released."""
    record.write_text(json.dumps(ELSEWHERE))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(record)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunInUseError, match=r"process 123 on node-7 is writing into it"):
            RunFolder(tmp_path / "run").claim()
    finally:
        ended.set()
        thread.join()
    assert json.loads(record.read_text()) == ELSEWHERE


def test_a_stale_record_is_taken_over(
    tmp_path: Path, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the time without a touch; the former owner does not remove the new record."""
    former, folder = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    former.claim()
    assert former._owner is not None
    former._owner._ended.set()  # it hangs
    record.write_text(json.dumps(ELSEWHERE))
    os.close(former._lock)  # type: ignore[arg-type]  # as on a file system whose locks other hosts do not see
    former._lock = None
    folder.claim()
    assert "has not touched" in capsys.readouterr().out
    former.close()
    assert json.loads(record.read_text())["process"] == os.getpid()
    folder.close()
    assert not record.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"kernel": 1}', json.dumps(ELSEWHERE | {"host": "\x1b[31m"})]
)
def test_a_damaged_record_is_no_owner_forever(content: str, tmp_path: Path, record: Path) -> None:
    """It is replaced, at once or when it is stale."""
    record.write_text(content)
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    assert json.loads(record.read_text())["process"] == os.getpid()
    folder.close()


def test_a_link_in_place_of_the_record_is_not_followed(tmp_path: Path, record: Path) -> None:
    """What it points to stays as it is."""
    target = tmp_path / "precious"
    target.write_text("precious")
    record.symlink_to(target)
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    folder.close()
    assert target.read_text() == "precious" and not record.is_symlink()


def test_the_owner_touches_its_record(tmp_path: Path, record: Path) -> None:
    """So that others see that it runs."""
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    os.utime(record, (0, 0))
    touched = threading.Event()
    for _ in range(200):
        if record.stat().st_mtime > 0:
            break
        touched.wait(0.02)
    assert record.stat().st_mtime > 0
    folder.close()
