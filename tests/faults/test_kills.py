"""A run that is killed anywhere, and resumed, ends as one that was left alone."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.comparison import differences
from faults.harness import ENVIRON, ROOT, SHORT, Server, Tally, logs_of, run_folder, run_with_kills

ALGORITHMS = ("vpg", "npg", "trpo", "acktr")
ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1", "Hopper-v5")
ALL = tuple(itertools.product(ALGORITHMS, ENVIRONMENTS, ("dummy", "workers")))


def mismatches(
    server: Server, tmp_path: Path, argv: tuple[object, ...], kills: int, tally: Tally
) -> list[str]:
    """Kill runs of a command so often, and return what they have otherwise than one that was left alone."""
    whole, found = tmp_path / "whole", []
    started = server.run(logs_of(whole), *argv, "--out", whole)
    assert started.code == 0, started.output
    algo, env = str(argv[1]), str(argv[3])
    generator, aimed = random.Random(" ".join(map(str, argv))), tally.kills.total() + kills
    for number in itertools.count():
        out = tmp_path / str(number)
        run_with_kills(server, out, argv, aimed - tally.kills.total(), generator, tally)
        found += differences(run_folder(out, algo, env), run_folder(whole, algo, env))
        if tally.kills.total() >= aimed:
            return found


def command(algo: str, env: str, vec_env: str) -> tuple[object, ...]:
    """Return the arguments of a short run."""
    return ("--algo", algo, "--env", env, "--vec-env", vec_env, *SHORT)


@pytest.mark.parametrize(
    ("algo", "env", "vec_env"),
    [
        ("vpg", "CartPole-v1", "dummy"),
        pytest.param("npg", "Pendulum-v1", "dummy", marks=pytest.mark.slow),
        pytest.param("trpo", "Hopper-v5", "workers", marks=[pytest.mark.mujoco, pytest.mark.slow]),
        ("acktr", "CartPole-v1", "dummy"),
    ],
)
def test_a_killed_run_ends_as_one_left_alone(
    server: Server, tmp_path: Path, algo: str, env: str, vec_env: str
) -> None:
    """Checkpoints, model, logs and evaluation are the same to the bit, and nothing else lies about."""
    if env.startswith("Hopper"):
        pytest.importorskip("mujoco")
    kills = 2 if vec_env == "workers" else 3
    assert mismatches(server, tmp_path, command(algo, env, vec_env), kills, Tally()) == []


@pytest.mark.slow
def test_a_hundred_kills(server: Server, tmp_path: Path) -> None:
    """Of every algorithm on every environment, in this process and in workers."""
    tally, found = Tally(), []
    begun = time.monotonic()
    for case in ALL:
        found += mismatches(server, tmp_path / "-".join(case), command(*case), 5, tally)
        print(
            f"{'-'.join(case)}: {tally}, {len(found)} mismatches, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
    assert found == []
    assert tally.kills.total() >= 100
    assert min(tally.kills[phase] for phase in ("checkpoint", "rollout", "update", "evaluation")) > 0


def test_a_killed_evaluation_is_made_again(server: Server, tmp_path: Path) -> None:
    """Also where the run had learned all it should: its last checkpoint keeps its generators."""
    argv = command("npg", "CartPole-v1", "dummy")
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert server.run(logs_of(whole), *argv, "--out", whole).code == 0
    folder = run_folder(out, "npg", "CartPole-v1")
    started = server.start(logs_of(out), *argv, "--out", out)
    assert started.reach("evaluation")
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not (folder / "evaluation.json").exists()
    assert server.run(logs_of(out), "--resume", folder).code == 0
    assert differences(folder, run_folder(whole, "npg", "CartPole-v1")) == []


@pytest.mark.slow
def test_gsde_and_a_normaliser_go_on_too(server: Server, tmp_path: Path) -> None:
    """Exploration noise that is kept over steps, VecNormalize's moments, and minibatches in random order."""
    settings = (
        *("use_sde=true", "sde_sample_freq=8", "normalize=true", "critic_fit=minibatch", "batch_size=32"),
        "policy_kwargs={normalize_observations: false, normalize_returns: false}",
    )
    argv = (*command("trpo", "Pendulum-v1", "dummy"), *settings)
    assert mismatches(server, tmp_path, argv, 3, Tally()) == []


@pytest.mark.slow
def test_in_fresh_interpreters(tmp_path: Path) -> None:
    """As a user has it: python train.py, kill -9, python train.py --resume."""
    argv = [str(word) for word in command("npg", "CartPole-v1", "dummy")]
    python, environ = [sys.executable, "train.py"], os.environ | ENVIRON
    whole, out = (run_folder(tmp_path / name, "npg", "CartPole-v1") for name in ("whole", "killed"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT, "env": environ}
    both = [
        subprocess.Popen([*python, *argv, "--out", tmp_path / name], **quiet) for name in ("whole", "killed")
    ]
    while not list(out.glob("checkpoints/checkpoint-000000256.ckpt")):
        time.sleep(0.001)
        assert both[1].poll() is None
    both[1].kill()
    assert [process.wait() for process in both] == [0, -signal.SIGKILL]
    assert subprocess.run([*python, "--resume", out], **quiet).returncode == 0
    assert differences(out, whole) == []
