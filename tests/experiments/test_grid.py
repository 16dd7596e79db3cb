"""A grid of runs: all of them, several at a time, whatever becomes of one."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments.grid import Cell, run_grid, stop
from experiments.progress import progress_bar
from experiments.run.csv_log import last_row
from experiments.run.run_folder import RunFolder, RunInUseError
from experiments.run.stop_signals import Stopped

FINISH = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)
(folder / "progress.csv").write_text("time/total_timesteps,rollout/ep_rew_mean\\n50,\\n100,7.5\\n")
(folder / "evaluation.json").write_text("{}")
"""
FAIL = "import sys; print('first'); sys.exit('no such thing')"
SAVE_AT_CTRL_C = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)
try:
    (folder / "started").touch()
    time.sleep(60)
except KeyboardInterrupt:
    (folder / "saved").touch()
    sys.exit(130)
"""


def cell(out: Path, seed: int, program: str) -> Cell:
    """Return a run that is a small Python program."""
    folder = RunFolder.of(out, "Task-v0", "npg", seed)
    return Cell(f"npg seed {seed}", [sys.executable, "-c", program, str(folder.path)], folder, 100)


def test_a_failure_stops_nobody_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The end of its output is the reason, and the output is kept; the others finish."""
    cells = [cell(tmp_path, 0, FAIL), cell(tmp_path, 1, FINISH), cell(tmp_path, 2, FINISH)]
    failures = run_grid(cells, jobs=2)
    assert list(failures) == ["npg seed 0"]
    assert failures["npg seed 0"].startswith("exit code 1: first / no such thing")
    assert "no such thing" in cells[0].log.read_text()
    assert [c.folder.finished for c in cells] == [False, True, True]
    assert not cells[1].log.exists()
    assert run_grid(cells[1:], jobs=2) == {}
    assert "2 of 2 runs are finished already" in capsys.readouterr().out


def test_the_error_is_the_reason_and_not_what_follows_it(tmp_path: Path) -> None:
    """A run prints its summary after an error."""
    program = (
        "import sys; print('error: ValueError: boom'); print('  files  x'); print('  curves y'); sys.exit(1)"
    )
    failures = run_grid([cell(tmp_path, 0, program)], jobs=1)
    assert failures["npg seed 0"].startswith("exit code 1: error: ValueError: boom (all of it in ")


def test_a_killed_run_is_a_failure(tmp_path: Path) -> None:
    """A signal is named."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (reason,) = run_grid([cell(tmp_path, 0, program)], jobs=1).values()
    assert reason.startswith("killed by SIGKILL: it printed nothing")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_let_runs_save(tmp_path: Path, number: int, code: int) -> None:
    """Each running one gets one Ctrl-C, those that wait are never started, and none is left behind."""
    process = os.fork()  # an interpreter would import for seconds
    if process == 0:
        try:
            run_grid([cell(tmp_path, seed, SAVE_AT_CTRL_C) for seed in range(3)], jobs=2)
        except Stopped as stopped:
            os._exit(stopped.code)
        finally:
            os._exit(1)
    folders = [tmp_path / "Task-v0" / "npg" / f"seed-{seed}" for seed in range(3)]
    deadline = time.monotonic() + 60
    while not all((folder / "started").exists() for folder in folders[:2]):
        assert time.monotonic() < deadline and os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    os.kill(process, number)
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == code
    assert [(folder / "saved").exists() for folder in folders] == [True, True, False]
    assert not folders[2].exists()


def test_waiting_runs_are_stopped_first(tmp_path: Path) -> None:
    """On a cluster, a run that waits for a core would start as soon as another one stops."""
    signalled: list[int] = []

    class Process:
        returncode = 0

        def __init__(self, seed: int):
            self.seed = seed

        def send_signal(self, sig: int) -> None:
            signalled.append(self.seed)

        def wait(self, timeout: float | None = None) -> int:
            return 0

    cells = [cell(tmp_path, seed, FINISH) for seed in range(3)]
    for seed, each in enumerate(cells):
        each.start(lambda command, log, seed=seed: Process(seed))
    stop(cells)
    assert signalled == [2, 1, 0]


def test_progress_is_read_while_it_is_written(tmp_path: Path) -> None:
    """The last row, also before there is one."""
    path = tmp_path / "progress.csv"
    assert last_row(path) == {}
    path.write_text("a,b\n")
    assert last_row(path) == {}
    path.write_text("a,b\n1,2\n3,\n")
    assert last_row(path) == {"a": "3", "b": ""}


def test_a_run_at_its_last_step_is_shown_as_evaluating(tmp_path: Path) -> None:
    """A full bar does not mean that it has ended."""
    run = cell(tmp_path, 0, "pass")
    run.folder.path.mkdir(parents=True)
    run.bar = progress_bar(run.n_timesteps, run.label, "step")
    for steps, text in ((60, "npg seed 0"), (128, "npg seed 0: evaluating")):
        run.folder.progress.write_text(f"time/total_timesteps\n{steps}\n")
        run.update_bar()
        assert run.bar.desc.rstrip(": ") == text
    run.bar.close()


def test_a_bar_counts_whole_things() -> None:
    """80/100, and not 80.0/100; large numbers are still short."""
    for total, text in ((100, "80/100"), (100_000, "80.0k/100k")):
        with progress_bar(total, "bar", "episode") as bar:
            bar.n = total * 4 // 5
            assert f" {text} " in str(bar)


def test_one_folder_has_one_writer(tmp_path: Path) -> None:
    """A second command is rejected, and leaves what the first one writes; afterwards it may."""
    first, second = (RunFolder.of(tmp_path, "Task-v0", "npg", 0) for _ in range(2))
    first.create()
    (first.path / "config.yaml").write_text("mine")
    with pytest.raises(RunInUseError, match="another command is writing into"):
        second.create()
    assert (first.path / "config.yaml").read_text() == "mine"
    first.close()
    assert second.create() == first.path.with_name("seed-0.unfinished-1")
    with pytest.raises(RunInUseError):
        first.create()


def test_a_run_that_finished_meanwhile_is_kept(tmp_path: Path) -> None:
    """Between a command's first look and its folder's making another one may end."""
    folder = RunFolder.of(tmp_path, "Task-v0", "npg", 0)
    folder.check_free()
    folder.path.mkdir(parents=True)
    folder.evaluation.write_text("{}")
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        folder.create()
    assert folder.finished and not list(folder.path.parent.glob("*.unfinished-*"))
