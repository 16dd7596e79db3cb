"""The script of docs/cluster.md, with submitit's local executor."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

submitit = pytest.importorskip("submitit")
ROOT = Path(__file__).parents[3]


def script(folder: Path, steps: int) -> Path:
    """Write the script with short runs of CartPole into a folder."""
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S)
    changes = {
        '"train.py"': repr(str(ROOT / "train.py")),
        '"Hopper-v5"': f'"CartPole-v1", "--steps", "{steps}", "--episodes", "2", "--checkpoint-every", "1"',
        '("npg", "vpg")': '("vpg",)',
        "range(20)": "range(2)",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "jobs.py"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_the_script_makes_the_runs_and_the_report(tmp_path: Path) -> None:
    """Two runs; the first job is preempted once, and resumes."""
    process = subprocess.Popen(
        [sys.executable, str(script(tmp_path, 8_000))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    first = tmp_path / "runs" / "CartPole-v1" / "vpg" / "seed-0"
    deadline = time.monotonic() + 600
    while not list(first.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    run = json.loads(first.with_name(".seed-0.owner").read_text())["process"]
    job = int(Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[1])  # its parent process
    os.kill(job, submitit.local.local.LocalJobEnvironment._usr_sig())
    assert process.wait(1200) == 0
    for seed in (0, 1):
        rows = list(csv.DictReader((first.with_name(f"seed-{seed}") / "progress.csv").open()))
        steps = [int(row["time/total_timesteps"]) for row in rows]
        assert steps[:-1] == sorted(set(steps)) and steps[-1] >= 8_000  # the last row has the last update
    assert not list(first.parent.glob("*.unfinished-*"))
    assert (tmp_path / "runs-report" / "report.html").exists()
