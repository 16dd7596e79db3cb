"""Text for any terminal, and reading and writing text in any locale."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.terminal import MOST, one_line, printable, show

ROOT = Path(__file__).parents[2]
PACKAGES = ("npg", "agents", "envs", "experiments")
# Python as on Windows, where fcntl is missing, with a tiny run.
TRAIN = """
import sys
sys.modules["fcntl"] = None
from experiments.command import main
words = "train --env CartPole-v1 --steps 256 --n-envs 2 --episodes 2 --vec-env dummy --device cpu --out"
sys.exit(main([*words.split(), sys.argv[1], "--set", "n_steps=64"]))
"""


def test_only_what_is_harmless_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters of any script stay; control characters, reversed and invisible text do not."""
    assert printable("µ ± δ \u202f 漢 é\n") == "µ ± δ \u202f 漢 é\n"
    assert printable("\x1b[2J\x07\r\t\u202e\u200b\udce9\u2028") == r"\x1b[2J\x07\r\t\u202e\u200b\udce9\u2028"
    assert one_line(Path("a\nb\x1b")) == r"a\nb\x1b"
    show("\x1b" + "x" * 2 * MOST)
    shown = capsys.readouterr().out
    assert len(shown) < MOST + 100 and shown.startswith(r"\x1bxx")


def test_an_ascii_locale_without_fcntl(tmp_path: Path) -> None:
    """A run is made and its result printed, and the missing lock is said once."""
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "over 2 deterministic episodes" in done.stdout
    assert done.stderr.count("cannot be locked (this platform has no fcntl)") == 1


@functools.cache
def calls() -> list[tuple[Path, ast.Call, str]]:
    """Return every call in the product, with the name that is called."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    found.append((path.relative_to(ROOT), node, name))
    return found


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """Or a name that the locale lacks is an error, e.g. on Windows."""
    missing = []
    for path, call, name in calls():
        if name not in ("open", "read_text", "write_text") or not isinstance(call.func, ast.Attribute):
            continue
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        if "metadata.distribution" in ast.unparse(call.func.value):  # always UTF-8
            continue
        other = getattr(call.func.value, "id", "") == "os" or any("b" in str(mode) for mode in modes)
        if not (other and name == "open") and "encoding" not in [keyword.arg for keyword in call.keywords]:
            missing.append(f"{path}:{call.lineno}")
    assert missing == []


def test_commands_print_by_one_function() -> None:
    """What a file has named reaches the terminal through `show` alone; --help is our own text."""
    own = ("experiments/terminal.py", "experiments/command.py", "experiments/zoo.py")
    found = [str(path) for path, call, name in calls() if name == "print" and path.parts[0] == "experiments"]
    assert {path for path in found if path not in own} == set()
