"""Checkpoints with flipped bytes and cut ends: rejected by name, never loaded."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.comparison import differences
from faults.harness import SHORT, Server, logs_of, run_folder

from experiments.run.checkpoint_file import CorruptCheckpointError, read
from experiments.run.checkpoints import Checkpoints, NoValidCheckpointError
from experiments.run.plain_data import to_bytes

ARGV = ("--algo", "trpo", "--env", "CartPole-v1", "--vec-env", "dummy", *SHORT)
FEW, MANY = 48, 1000


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    started = server.run(logs_of(out), *ARGV, "--out", out)
    assert started.code == 0, started.output
    return run_folder(out, "trpo", "CartPole-v1")


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, as a crash just before the evaluation leaves it."""
    folder = Path(shutil.copytree(whole, tmp_path / "stopped"))
    (folder / "evaluation.json").unlink()
    return folder


def damages(data: bytes, count: int) -> Iterator[bytes]:
    """Yield damaged copies of a file: bits flipped, bytes overwritten, the end cut off, bytes added."""
    generator = np.random.default_rng(0)
    for number in range(count):
        damaged = bytearray(data)
        # The header and the tensors' names are the first few hundred bytes: half of all damage falls there.
        place = int(generator.integers(len(data) if number % 2 else 600))
        kind = number % 5
        if kind == 0:
            del damaged[place:]
        elif kind == 1:
            damaged += generator.bytes(1 + place % 100)
        elif kind == 2:
            damaged[place] ^= int(generator.integers(1, 256))
        elif kind == 3:
            damaged[place] ^= 1 << int(generator.integers(8))
        else:
            length = min(int(generator.integers(1, 4096)), len(data) - place)
            damaged[place : place + length] = generator.bytes(length)
        assert damaged != data
        yield bytes(damaged)


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_every_damaged_checkpoint_is_refused(stopped: Path, count: int) -> None:
    """The newest valid one is taken in its place, bit for bit, and the message names the damaged one."""
    checkpoints = Checkpoints(stopped / "checkpoints")
    newest, second = checkpoints.paths()[:2]
    expected, refused = to_bytes(read(second)["content"]), 0
    for damaged in damages(newest.read_bytes(), count):
        newest.write_bytes(damaged)
        with pytest.raises(CorruptCheckpointError, match=newest.name):
            read(newest)
        path, content = checkpoints.newest_valid()
        assert path == second and to_bytes(content) == expected
        assert [error.path for error in checkpoints.rejected] == [newest]
        refused += 1
    assert refused == count


@pytest.mark.parametrize("number", [0, 2, 4])
def test_resume_passes_over_the_damaged_ones(server: Server, whole: Path, stopped: Path, number: int) -> None:
    """It names them and why, and what it goes on from; the run ends as one that was left alone."""
    first, second, third = Checkpoints(stopped / "checkpoints").paths()
    for path in (first, second):
        path.write_bytes(list(damages(path.read_bytes(), number + 1))[number])
    started = server.run(logs_of(stopped), "--resume", stopped)
    assert started.code == 0, started.output
    for path in (first, second):
        assert f"rejected: {path} is no valid checkpoint: it" in started.output
    assert f"resuming from {third}" in started.output
    assert differences(stopped, whole) == []


def test_nothing_valid_is_a_clear_refusal(server: Server, stopped: Path) -> None:
    """Exit code 2, every file named with its reason, and the folder as it was."""
    paths = sorted((stopped / "checkpoints").iterdir())
    for path in paths:
        path.write_bytes(path.read_bytes()[:1000])
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped)
    assert started.code == 2
    assert "holds no valid checkpoint" in started.output and "Traceback" not in started.output
    assert all(f"{path.name}: it has 1000 bytes" in started.output for path in paths)
    assert contents(stopped) == before
    with pytest.raises(NoValidCheckpointError):
        Checkpoints(stopped / "checkpoints").newest_valid()


@pytest.mark.parametrize("name", ["progress.csv", "events"])
def test_a_log_that_lost_rows_is_named(server: Server, stopped: Path, name: str) -> None:
    """A log shorter than the checkpoint counts on is refused: its rows cannot be made again."""
    path = max(stopped.glob(f"{name}*"), key=lambda path: path.stat().st_size)  # others are written again
    path.write_bytes(path.read_bytes()[:200])
    before = contents(stopped)
    started = server.run(logs_of(stopped), "--resume", stopped)
    assert (
        started.code == 2 and str(path) in started.output and "fewer than the checkpoint's" in started.output
    )
    assert "Traceback" not in started.output
    assert contents(stopped) == before


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
