"""SIGINT and SIGTERM at any time: an exit within ten seconds, and a run that goes on as if never stopped."""

import os
import signal
import time
from pathlib import Path

import pytest
from faults.comparison import differences
from faults.harness import SHORT, Server, Started, logs_of, run_folder

ENV = "Stateful-v0"
MOST_SECONDS = 10.0
SLOW = pytest.mark.slow
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def command(vec_env: str) -> tuple[object, ...]:
    """Return the arguments of a run of a user's own environment, which gives its state."""
    return ("--algo", "trpo", "--env", ENV, "--vec-env", vec_env, *SHORT)


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that were left alone."""
    folders = {}
    for vec_env in ("dummy", "workers"):
        out = tmp_path_factory.mktemp("whole") / "runs"
        started = server.run(logs_of(out), *command(vec_env), "--out", out)
        assert started.code == 0, started.output
        folders[vec_env] = run_folder(out, "trpo", ENV)
    return folders


def processes(mark: str) -> list[int]:
    """Return the processes with a variable in their environment: workers and what they are forked from."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=SLOW), signal.SIGTERM])
@pytest.mark.parametrize("phase", ["rollout", "update", "checkpoint", "log", "model", "evaluation"])
def test_a_signal_in_any_phase(
    server: Server, whole: dict[str, Path], tmp_path: Path, phase: str, number: int
) -> None:
    """The exit code names the signal, the output how to go on, and the resumed run equals the other."""
    out = tmp_path / "runs"
    folder = run_folder(out, "trpo", ENV)
    faults = [["slow_checkpoint", 0.05]] if phase == "checkpoint" else []
    started = server.start(logs_of(out), *command("dummy"), "--out", out, faults=faults)
    assert started.reach(phase, 1 if phase in ("evaluation", "model") else 4)
    assert started.phases.now == phase or phase in ("log", "model")
    begun = time.monotonic()
    started.signal(number)
    assert started.wait() == CODES[number], started.output
    assert time.monotonic() - begun < MOST_SECONDS
    assert f"stopped by {signal.Signals(number).name}; " in started.output
    assert f"python train.py --resume {folder}" in started.output
    resumed = server.run(logs_of(out), "--resume", folder)
    assert resumed.code == 0, resumed.output
    assert differences(folder, whole["dummy"], every_checkpoint=False) == []


def in_a_slow_rollout(server: Server, out: Path, vec_env: str, slow: Path, mark: str) -> Started:
    """Return a run that has come to its fourth rollout, half a second a step."""
    argv = (*command(vec_env), "--out", out)
    started = server.start(logs_of(out), *argv, SLOW=str(slow), MARK=mark)
    assert started.reach("update", 3)
    slow.touch()
    assert started.reach("rollout", 4, 0.6)
    return started


@SLOW
@pytest.mark.parametrize("vec_env", ["dummy", "workers"])
def test_a_rollout_of_minutes_is_given_up(
    server: Server, whole: dict[str, Path], tmp_path: Path, vec_env: str
) -> None:
    """With half a second a step, the run exits from its last checkpoint; no worker is left."""
    out, slow, mark = tmp_path / "runs", tmp_path / "slow", str(tmp_path)
    folder = run_folder(out, "trpo", ENV)
    started = in_a_slow_rollout(server, out, vec_env, slow, mark)
    begun = time.monotonic()
    started.signal(signal.SIGTERM)
    assert started.wait() == 143, started.output
    assert 4.0 < time.monotonic() - begun < MOST_SECONDS
    await_end(mark)
    slow.unlink()
    assert server.run(logs_of(out), "--resume", folder).code == 0
    assert differences(folder, whole[vec_env], every_checkpoint=False) == []


@pytest.mark.parametrize("vec_env", ["dummy", pytest.param("workers", marks=SLOW)])
@pytest.mark.parametrize("second", [pytest.param(signal.SIGINT, marks=SLOW), signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(
    server: Server, whole: dict[str, Path], tmp_path: Path, second: int, vec_env: str
) -> None:
    """By the signal itself, in the middle of a step; the run goes on from its last checkpoint."""
    out, slow, mark = tmp_path / "runs", tmp_path / "slow", str(tmp_path)
    folder = run_folder(out, "trpo", ENV)
    started = in_a_slow_rollout(server, out, vec_env, slow, mark)
    if vec_env == "workers":
        assert len(processes(mark)) >= 2  # the run, and on several cores the workers' template and workers
    begun = time.monotonic()
    started.signal(signal.SIGTERM)
    time.sleep(0.2)
    started.signal(second)
    assert started.wait() == -second, started.output
    assert time.monotonic() - begun < 1.0
    await_end(mark)
    slow.unlink()
    assert server.run(logs_of(out), "--resume", folder).code == 0
    assert differences(folder, whole[vec_env], every_checkpoint=False) == []


def await_end(mark: str) -> None:
    """Wait until no process is left; their shared memory, which has no name, ends with them."""
    deadline = time.monotonic() + 5.0
    while left := processes(mark):
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.05)


@SLOW
@pytest.mark.parametrize(("update", "moment"), [(3, 5), (4, 6)])
def test_a_run_that_lost_a_worker_is_resumed(
    server: Server, tmp_path: Path, update: int, moment: int
) -> None:
    """Killed after a worker was, and resumed, it ends as a run that only lost the worker.

    After update 4 a checkpoint is due: it is taken while the cut episodes are still to be told.
    """
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one worker holds all environments")
    whole, out = tmp_path / "whole", tmp_path / "killed"
    faults = [["dead_worker", update]]
    folders = [run_folder(each, "trpo", ENV) for each in (whole, out)]
    alone = server.run(logs_of(whole), *command("workers"), "--out", whole, faults=faults)
    assert alone.code == 0, alone.output
    assert "it is replaced, and their episodes are truncated" in alone.output
    started = server.start(logs_of(out), *command("workers"), "--out", out, faults=faults)
    assert started.reach("update", moment)
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    resumed = server.run(logs_of(out), "--resume", folders[1])
    assert resumed.code == 0, resumed.output
    assert differences(folders[1], folders[0]) == []
    assert "worker_replacements" in (folders[1] / "progress.csv").read_text()
