"""Start Python programs on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torchrun(ranks: int, *command: object, restarts: int = 0) -> list[str]:
    """Return the command that starts a program, or `--module` and its name, on ranks of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", ranks, "--max-restarts", restarts, *command]
    return [*launcher, *map(str, options)]


def environment() -> dict[str, str]:
    """Return the variables with which programs find the packages and the modules in tests/."""
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


def run(ranks: int, *command: object, folder: Path, timeout: float = 300) -> str:
    """Run a program on several ranks in a folder, and return what they printed.

    Raises:
        AssertionError: one failed; the message is what they printed.
    """
    done = subprocess.run(
        torchrun(ranks, *command),
        cwd=folder,
        env=environment(),
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
