"""Grids and searches on a Ray cluster of two nodes, which are processes of this machine."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

from ray.cluster_utils import Cluster  # noqa: E402 - Ray is an optional dependency

from experiments.run.csv_log import last_row  # noqa: E402
from experiments.tuning.study import optuna, storage_of  # noqa: E402

ROOT = Path(__file__).parents[3]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
# Each process of a run appends a line with its seed, its process and that of its node.
STARTS = """
import os, sys
if "RAY_RAYLET_PID" in os.environ:
    seed = sys.argv[sys.argv.index("--seed") + 1] if "--seed" in sys.argv else 0
    words = seed, os.getpid(), os.environ["RAY_RAYLET_PID"]
    with open({path!r}, "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster with one node of one core."""
    made = Cluster(initialize_head=True, head_node_args=NODE)
    yield made
    made.shutdown()


def start(tmp_path: Path, *words: str) -> subprocess.Popen:
    """Start train.py with its output in a file."""
    (tmp_path / "starts.py").write_text(STARTS.format(path=str(tmp_path / "starts.txt")))
    with (tmp_path / "output.txt").open("a") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "--out", str(tmp_path / "runs"), *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def starts(tmp_path: Path) -> list[tuple[int, int, int]]:
    """Return (seed, process, process of the node) of each start of a run."""
    path = tmp_path / "starts.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]


def wait_until(condition: Callable[[], object], process: subprocess.Popen, output: Path) -> None:
    """Wait for a condition while a process runs."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, output.read_text()
        time.sleep(0.1)


def steps(folder: Path) -> int:
    """Return the number of steps that a run has logged."""
    return int(last_row(folder / "progress.csv").get("time/total_timesteps") or 0)


def alive(process: int) -> bool:
    """Return whether a process runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def raylet(node: object) -> subprocess.Popen:
    """Return a node's main process, with which the processes of its tasks end."""
    (info,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
    return info.process


def kill(node: object) -> None:
    """Let a node die; it must not remain as a zombie process, which Ray takes to be alive."""
    raylet(node).kill()
    raylet(node).wait()


def test_runs_of_a_dead_node_go_on_on_another(tmp_path: Path, cluster: Cluster) -> None:
    """All 12 runs finish, only the one of the dead node is started twice, from its checkpoint."""
    second = cluster.add_node(**NODE)
    node, task = raylet(second).pid, tmp_path / "runs" / "CartPole-v1" / "vpg"
    process = start(
        tmp_path,
        *("--algo", "vpg", "--import", "starts", "--steps", "8000", "--seeds", "12", "--episodes", "2"),
        *("--checkpoint-every", "1", "--cluster", cluster.address),
    )

    def there() -> list[int]:
        """Return the runs on the second node that have a checkpoint and at most half of their steps."""
        seeds = [seed for seed, _, where in starts(tmp_path) if where == node]
        return [
            seed
            for seed in seeds
            if list((task / f"seed-{seed}" / "checkpoints").glob("*.ckpt"))
            and steps(task / f"seed-{seed}") < 4000
        ]

    def finished() -> int:
        return len(list(task.glob("seed-*/evaluation.json")))

    output = tmp_path / "output.txt"
    wait_until(lambda: finished() >= 2 and there(), process, output)
    (died,) = there()
    kill(second)
    assert process.wait(1200) == 0, output.read_text()
    assert finished() == 12
    assert Counter(seed for seed, _, _ in starts(tmp_path)) == {s: 1 + (s == died) for s in range(12)}
    assert not list(task.glob("*.unfinished-*"))
    for seed in range(12):
        rows = list(csv.DictReader((task / f"seed-{seed}" / "progress.csv").open()))
        logged = [int(row["time/total_timesteps"]) for row in rows]
        assert logged[:-1] == sorted(set(logged)) and logged[-1] >= 8000  # the last row has the last update
    assert (tmp_path / "runs" / "report" / "report.html").exists()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]
    assert not list(task.glob("*.log"))


def test_trials_of_a_dead_node_go_on_on_another(tmp_path: Path, cluster: Cluster) -> None:
    """The study has 12 trials, all complete or pruned; that of the dead node keeps its settings."""
    second = cluster.add_node(**NODE)
    process = start(
        tmp_path,
        *("--algo", "vpg", "--steps", "6000", "--tune", "12", "--cluster", cluster.address),
    )
    journal = tmp_path / "runs" / "CartPole-v1" / "vpg" / "tuning" / "study.journal"

    def trials() -> list[optuna.trial.FrozenTrial]:
        if not journal.exists():
            return []
        storage = storage_of(journal)
        return (
            optuna.load_study(study_name="tuning", storage=storage).trials
            if storage.get_all_studies()
            else []
        )

    output = tmp_path / "output.txt"
    wait_until(lambda: sum(trial.state.is_finished() for trial in trials()) >= 3, process, output)
    kill(second)
    assert process.wait(1200) == 0, output.read_text()
    found = trials()
    assert [trial.number for trial in found] == list(range(12))
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
    assert len({str(trial.params) for trial in found}) == 12
    assert (journal.with_name("best.yaml")).exists() and not journal.with_name("study.db").exists()


def test_ctrl_c_lets_runs_save(tmp_path: Path) -> None:
    """Each running one saves a checkpoint, none is left behind, and the command resumes them."""
    words = "--algo", "vpg", "--import", "starts", "--steps", "30000", "--seeds", "3", "--episodes", "1"
    cluster = "--cluster", "ray", "--jobs", "2"
    process, output = start(tmp_path, *words, *cluster), tmp_path / "output.txt"
    task = tmp_path / "runs" / "CartPole-v1" / "vpg"

    folders = task / "seed-0", task / "seed-1"
    wait_until(lambda: all(map(steps, folders)), process, output)
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130, output.read_text()
    assert "repeat the command to resume" in output.read_text()
    time.sleep(1.0)
    assert not any(alive(pid) for _, pid, _ in starts(tmp_path)) and len(starts(tmp_path)) == 2
    for folder in folders:
        assert list((folder / "checkpoints").glob(f"*{steps(folder)}.ckpt"))
    assert start(tmp_path, *words, *cluster).wait(1200) == 0, output.read_text()
    assert Counter(seed for seed, _, _ in starts(tmp_path)) == {0: 2, 1: 2, 2: 1}
    assert not list(task.glob("*.unfinished-*"))


def test_what_the_cluster_lacks_is_one_error(tmp_path: Path, cluster: Cluster) -> None:
    """GPUs that no node has; then storage that another node does not see."""
    grid = "--algo", "vpg", "--seeds", "2", "--cluster", cluster.address
    output = tmp_path / "output.txt"
    assert start(tmp_path, *grid, "--device", "cuda", "--gpu-share", "0.5").wait(600) == 2
    (line,) = output.read_text().splitlines()[-1:]
    assert line.startswith("error: each run asks for 1 CPU, 0.5 GPU, and no node of the cluster has that")
    out = tmp_path / "runs"
    out.mkdir(exist_ok=True)
    hidden = ["unshare", "-Urm", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*hidden, f"mount -t tmpfs none {out}"]).returncode:
        pytest.skip("this system does not permit a mount that one process sees")
    ray_start = Path(sys.executable).with_name("ray")
    joined = f"{ray_start} start --address {cluster.address} --num-cpus 1 --block"
    joined += f" --object-store-memory {100 * 2**20}"
    node = subprocess.Popen([*hidden, f"mount -t tmpfs none {out} && exec {joined}"], start_new_session=True)
    try:
        wait_until(lambda: len(cluster.global_state.node_table()) == 2, node, output)
        assert start(tmp_path, *grid).wait(600) == 2
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(60)
    (line,) = output.read_text().splitlines()[-1:]
    assert line.startswith("error: node ") and f"does not share {out} with this machine" in line
    assert "choose an --out on storage that all nodes share" in line
    assert list(out.iterdir()) == []
