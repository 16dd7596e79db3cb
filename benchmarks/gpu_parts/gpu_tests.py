"""Part 2: the tests that are marked `gpu`."""

import re
import subprocess
import sys
from pathlib import Path

from gpu_parts.part import Part

ROOT = Path(__file__).parents[2]
NO_TESTS = 5  # pytest's exit code if it collected none
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|xfailed|xpassed)")


def run_gpu_tests(part: Part) -> None:
    """Run the marked tests in a separate process and count the outcomes.

    Only files that contain the mark are collected, so that imports of optional packages by other tests cannot
    fail.
    """
    if part.out_of_time("all tests"):
        return
    files = [str(path.relative_to(ROOT)) for path in marked_files(ROOT / "tests")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=part.seconds_left)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        part.fail(f"pytest was stopped after {part.budget:.0f} s; its output ends with {text[-500:]!r}")
        return
    counts = count_outcomes(done.stdout)
    part.add("tests marked gpu", files=len(files), **counts)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            part.fail(line)
    if done.returncode not in (0, NO_TESTS) and not part.failures:
        part.fail(f"pytest returned {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
    if counts["passed"] == 0 and part.device.type == "cuda":
        part.fail("no GPU test ran")
    if part.device.type != "cuda":
        part.note(f"no CUDA device: zero GPU tests ran, {counts['skipped']} were skipped")


def marked_files(folder: Path) -> list[Path]:
    """Return the test files that use the mark."""
    paths = sorted(folder.rglob("test_*.py"))
    return [path for path in paths if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def count_outcomes(output: str) -> dict[str, int]:
    """Return the counts in the last line of pytest's output."""
    counts = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    last = output.strip().rpartition("\n")[2]
    return counts | {outcome: int(number) for number, outcome in COUNT.findall(last)}
