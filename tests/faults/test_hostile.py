"""Every command on every hostile folder: a clear message in bounded time and memory, nothing is changed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from faults.harness import start_module
from faults.hostile_folders import HOSTILE

SECONDS, MEMORY = 10.0, 2**30  # of CPU, since other programs may keep the cores busy; peak
PATIENCE = 60.0  # seconds after which a command hangs
COMMANDS = {
    "resume": ("train", "--allow-changes", "--resume"),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "video": ("evaluate", "--video"),
    "report": ("report",),
}
NEEDS = {"export": ("onnxruntime",), "video": ("imageio_ffmpeg", "pygame"), "report": ("jinja2", "plotly")}
LETTERS = {"resume": "R", "evaluate": "E", "export": "E", "video": "E", "report": "P"}


class HostileServer:
    """Runs commands in forks of one process; a context manager."""

    def __enter__(self) -> Self:
        self._process = start_module("faults.hostile_server")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, output: Path, *argv: object) -> dict[str, Any]:
        """Return exit code, seconds and memory of `npg ARGV`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"argv": list(map(str, argv)), "output": str(output), "seconds": PATIENCE}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[HostileServer]:
    """A process that has imported the commands."""
    with HostileServer() as running:
        yield running


def snapshot(folder: Path) -> dict[str, object]:
    """Return everything below a folder: modes, sizes, times and contents, without following links."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file() and about.st_size < 2**24:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        times = about.st_mtime_ns if path.is_file() and not path.is_symlink() else 0
        found[str(path.relative_to(folder))] = about.st_mode, about.st_size if times else 0, times, content
    return found


@dataclass
class Case:
    """A spoilt copy of a run: top/run, with top/outside beside it."""

    top: Path

    @property
    def folder(self) -> Path:
        """The spoilt run, below a name that a shell would execute."""
        return self.top / "$(touch CANARY)" / "seed-0"


def make(name: str, finished: Path, tmp_path: Path, *, unfinished: bool) -> Case:
    """Return a spoilt copy of a finished run."""
    case = Case(tmp_path / "top")
    outside = case.top / "outside"
    outside.mkdir(parents=True)
    (outside / "victim").write_text("mine")
    shutil.copytree(finished, case.folder)
    HOSTILE[name][1](case.folder, outside)
    if unfinished:
        (case.folder / "evaluation.json").unlink(missing_ok=True)
    return case


def check(name: str, command: str, hostile_server: HostileServer, finished: Path, tmp_path: Path) -> None:
    """Run a command on a hostile folder, and check message, exit code, limits and what it left."""
    case = make(name, finished, tmp_path, unfinished=command == "resume")
    before, outside = snapshot(case.folder), snapshot(case.top / "outside")
    output = tmp_path / "output"
    program, *options = COMMANDS[command]
    ended = hostile_server.run(output, program, *options, case.folder)
    text = output.read_bytes().decode("utf-8", "surrogateescape")
    about = f"{name}, {command}: {ended}\n{text[-3000:]}"
    assert "Traceback" not in text, about
    assert not set(text.replace("\x1b[A", "")) & {chr(k) for k in range(32) if chr(k) not in "\n\r"}, about
    assert ended["seconds"] < SECONDS and ended["memory"] < MEMORY, about
    assert snapshot(case.top / "outside") == outside, about
    assert not list(case.top.glob("**/CANARY")) and not Path("CANARY").exists(), about
    if set(LETTERS[command]) & set(HOSTILE[name][0]):
        assert ended["code"] == 2 and "error: " in text and len(text) < 8000, about
        assert snapshot(case.folder) == before, about
        assert {path.name for path in case.top.rglob("*report*")} == set(), about
    else:
        assert ended["code"] == 0, about


def skip_without(command: str) -> None:
    """Skip if a command's packages are not installed."""
    for module in NEEDS.get(command, ()):
        pytest.importorskip(module)


def test_there_are_enough() -> None:
    """The list is not empty by a mistake."""
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", [name for name, (rejects, _) in HOSTILE.items() if rejects][::4])
def test_one_command_on_a_hostile_folder(
    name: str, hostile_server: HostileServer, finished: Path, tmp_path: Path
) -> None:
    """A quarter of what the slow test does, with the first command that must reject the folder."""
    command = {"R": "resume", "E": "evaluate", "P": "report"}[HOSTILE[name][0][-1]]
    check(name, command, hostile_server, finished, tmp_path)
    shutil.rmtree(tmp_path / "top")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder(
    name: str, command: str, hostile_server: HostileServer, finished: Path, tmp_path: Path
) -> None:
    """It is rejected, or what is wrong has no effect."""
    skip_without(command)
    check(name, command, hostile_server, finished, tmp_path)
    shutil.rmtree(tmp_path / "top")
