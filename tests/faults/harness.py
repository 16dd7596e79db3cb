"""Runs of train.py that are killed, stopped and resumed, from a server that has imported it once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from faults.phases import Phases

ROOT = Path(__file__).parents[2]
# A commit in the middle of a test would count as another version: without a repository there is none.
ENVIRON = {"GIT_DIR": "/nowhere", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
POLL = 0.0005
PATIENCE = 120.0  # seconds after which a run hangs
STEPS = 1024
SHORT = (
    *("--steps", STEPS, "--n-envs", 4, "--episodes", 3, "--checkpoint-every", 2, "--device", "cpu"),
    *("--set", "n_steps=32"),
)


def start_module(name: str, **options: Any) -> "subprocess.Popen[str]":
    """Start a module that answers a line of JSON by another; options are those of `Popen`."""
    return subprocess.Popen(
        [sys.executable, "-m", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | ENVIRON,
        **options,
    )


class Server:
    """Starts runs; a context manager."""

    def __enter__(self) -> Self:
        self._process = start_module("faults.server", process_group=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, **request: Any) -> Any:
        """Return the reply to a request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        folder: Path,
        *argv: object,
        command: str = "train",
        faults: Sequence[Sequence[Any]] = (),
        **environ: str,
    ) -> "Started":
        """Start `train.py ARGV`, and let its output and its phases be in a folder.

        Args:
            folder: for what the test keeps, beside the run's own.
            argv: the command line.
            command: of `npg`.
            faults: see `faults.injection`.
            environ: variables of the environment.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.output")))
        output, phases = folder / f"{number}.output", folder / f"{number}.phases"
        words = [str(word) for word in argv]
        watched = Phases(phases)
        pid = self.ask(
            command=command,
            argv=words,
            faults=faults,
            environ=environ,
            output=str(output),
            phases=str(phases),
        )
        return Started(self, pid, output, watched)

    def run(self, folder: Path, *argv: object, **options: Any) -> "Started":
        """Start a run and wait for its end."""
        started = self.start(folder, *argv, **options)
        started.wait()
        return started


@dataclass
class Started:
    """A run that was started.

    Attributes:
        pid: its process.
        phases: what it is doing.
        code: how it ended, negative for a signal; None before `wait`.
    """

    server: Server
    pid: int
    _output: Path
    phases: Phases
    code: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return the exit code.

        Raises:
            TimeoutError: it hangs; it is killed.
        """
        if self.code is None:
            self.code = self.server.ask(wait=self.pid, seconds=seconds)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.server.ask(wait=self.pid, seconds=PATIENCE)
            raise TimeoutError(f"the run did not end within {seconds} s:\n{self.output}")
        return self.code

    @property
    def output(self) -> str:
        """What it printed on stdout and stderr."""
        return self._output.read_text()

    def reach(self, phase: str, times: int = 1, delay: float = 0.0) -> bool:
        """Wait until a phase has begun so often, and a moment longer; return False if the run ended before.

        It is then still running, or a zombie that a signal does no harm.
        """
        while self.phases.begun(phase) < times:
            if not self._runs():
                return False
            time.sleep(POLL)
        time.sleep(delay)
        return self._runs()

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def _runs(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@dataclass
class Tally:
    """What a test did to its runs.

    Attributes:
        kills: by the phase in which they fell.
        resumes: runs that went on from a checkpoint; others were killed before their first.
    """

    kills: Counter[str] = field(default_factory=Counter)
    resumes: int = 0

    def __str__(self) -> str:
        told = ", ".join(f"{count} in {phase}" for phase, count in sorted(self.kills.items()))
        return f"{self.kills.total()} kills ({told}), {self.resumes} resumes"


# Phases to aim at, and up to how many seconds after one has begun.
AIMS = {
    "start": 0.5,
    "workers": 0.3,
    "rollout": 0.06,
    "update": 0.05,
    "checkpoint": 0.012,
    "log": 0.003,
    "evaluation": 0.1,
    "model": 0.02,
}
REPEATED = ("rollout", "update", "checkpoint", "log")


def run_folder(out: Path, algo: str, env: str) -> Path:
    """Return the folder of a run with seed 0."""
    return out / env / algo.replace(":", "-") / "seed-0"


def run_with_kills(
    server: Server, out: Path, argv: Sequence[object], kills: int, generator: random.Random, tally: Tally
) -> None:
    """Make a run, kill it again and again at random moments, and resume it to its end.

    Args:
        server: that starts it.
        out: for --out; what the test keeps lies beside it.
        argv: of the run, with --algo and --env first.
        kills: at most so many, as it may end before.
        generator: of the moments.
        tally: to add to.

    Raises:
        RuntimeError: a run failed.
    """
    folder = run_folder(out, str(argv[1]), str(argv[3]))
    start: Sequence[object] = (*argv, "--out", out)
    command = start
    while not (folder / "evaluation.json").exists():
        started = server.start(logs_of(out), *command)
        if kills > 0:
            kills -= 1
            kill_at_random(started, generator)
        if (code := started.wait()) == -signal.SIGKILL:
            tally.kills[started.phases.now] += 1
        elif code != 0:
            raise RuntimeError(f"exit code {code}:\n{started.output}")
        resumable = any((folder / "checkpoints").glob("checkpoint-*.ckpt"))
        tally.resumes += resumable and code != 0
        command = ("--resume", folder) if resumable else start


def kill_at_random(started: Started, generator: random.Random) -> None:
    """Kill a run in a random phase, at a random moment of it; leave it alone if it ends before."""
    aim = generator.choice(list(AIMS))
    times = generator.randint(1, 5) if aim in REPEATED else 1
    if started.reach(aim, times, generator.uniform(0, AIMS[aim])):
        started.signal(signal.SIGKILL)


def logs_of(out: Path) -> Path:
    """Return the folder of what a test keeps of its runs."""
    return out.with_name(f"{out.name}-logs")
