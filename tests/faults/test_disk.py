"""A full disk: a clear error, checkpoints that are whole, and a run that goes on once there is room."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.comparison import differences
from faults.harness import SHORT, Server, logs_of, run_folder

from experiments.run.checkpoints import Checkpoints

ARGV = ("--algo", "npg", "--env", "CartPole-v1", "--vec-env", "dummy", *SHORT)


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on a disk with room."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    assert server.run(logs_of(out), *ARGV, "--out", out).code == 0
    return run_folder(out, "npg", "CartPole-v1")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (["full_checkpoint", 5], "cannot write"),
        (["full_log", 4], "No space left on device"),
        (["full_events", 4], "No space left on device"),
    ],
)
def test_a_write_that_finds_no_room(
    server: Server, whole: Path, tmp_path: Path, fault: list[object], told: str
) -> None:
    """Of a checkpoint, of a row of the CSV, and of TensorBoard's thread."""
    out = tmp_path / "runs"
    folder = run_folder(out, "npg", "CartPole-v1")
    failed = server.run(logs_of(out), *ARGV, "--out", out, faults=[fault])
    check_failure(failed, folder, told)
    resumed = server.run(logs_of(out), "--resume", folder)
    assert resumed.code == 0, resumed.output
    assert differences(folder, whole) == []


def check_failure(failed: object, folder: Path, told: str) -> None:
    """Check that a run says what happened, and has checkpoints that are all whole."""
    assert failed.code == 1, failed.output
    assert "error: " in failed.output and told in failed.output
    assert f"The last good checkpoint is {folder / 'checkpoints'}" in failed.output
    assert failed.output.count("Traceback") == failed.output.count("Exception in thread")  # TensorBoard's own
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.newest_valid()
    assert checkpoints.rejected == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    "free", [1000, *(pytest.param(free, marks=pytest.mark.slow) for free in (30_000, 70_000))]
)
def test_a_disk_that_is_full(
    server: Server, whole: Path, small_disk: Path, tmp_path: Path, free: int
) -> None:
    """Really so: whichever write it is that fails first, with some bytes of it there."""
    out, ballast = small_disk / "runs", small_disk / "ballast"
    folder, logs = run_folder(out, "npg", "CartPole-v1"), tmp_path / "logs"
    started = server.start(logs, *ARGV, "--out", out, faults=[["slow_checkpoint", 0.05]])
    assert started.reach("update", 3)
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while (left := shutil.disk_usage(small_disk).free - free) > size:
                file.write(bytes(size if left < 2**16 else 2**15))
    started.wait()
    check_failure(started, folder, "No space left on device")
    ballast.unlink()
    resumed = server.run(logs, "--resume", folder)
    assert resumed.code == 0, resumed.output
    assert differences(folder, whole) == []
