"""A Ray cluster, on which each run of a grid and each trial of a search is a task."""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.cores import usable_cores
from experiments.extras import needs
from experiments.terminal import show

with needs("cluster"):
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from experiments.cluster_executor import ClusterExecutor
    from experiments.cluster_process import ClusterProcess, reason_of
from experiments.cluster_task import run_command, storage_problem

LOCAL = "ray"  # the address of a cluster that the command starts
RETRIES = 3  # largest number of repetitions of a task whose node died
CONNECT_TIMEOUT = 10.0  # seconds
CHECK_TIMEOUT = 120.0  # seconds in which each node must read a file
OBJECT_STORE = 100 * 2**20  # bytes; results are only exit codes


class Cluster:
    """A cluster that this process is connected to.

    Args:
        token: a file in --out, which every node reads.
        gpus: share of a GPU for each task.

    Raises:
        ValueError: no node has what a task needs, or a node does not share the storage of --out.
    """

    def __init__(self, token: Path, gpus: float):
        self._token = token
        self._options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_resources([node["Resources"] for node in nodes], {"CPU": 1, "GPU": gpus})
        self.cores = sum(int(node["Resources"].get("CPU", 0)) for node in nodes)
        show(f"cluster: {len(nodes)} nodes with {self.cores} cores")
        self._check_storage({node["NodeID"]: node["NodeManagerHostname"] for node in nodes})

    def _check_storage(self, nodes: Mapping[str, str]) -> None:
        task = ray.remote(storage_problem)
        refs = {}
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            refs[task.options(num_cpus=0, scheduling_strategy=here).remote(self._token)] = node
        _, late = ray.wait(list(refs), num_returns=len(refs), timeout=CHECK_TIMEOUT)
        for ref, node in refs.items():
            name = f"node {nodes[node]} ({node[:8]})"
            if ref in late:
                raise ValueError(f"{name} did not start a task within {CHECK_TIMEOUT:g} s")
            try:
                problem = ray.get(ref)
            except RayError as error:
                raise ValueError(
                    f"{name} cannot run this program ({reason_of(error)}); install it there, too, or put it "
                    "on storage that all nodes share"
                ) from None
            if problem is not None:
                raise ValueError(
                    f"{name} does not share {self._token.parent} with this machine ({problem}); choose an "
                    "--out on storage that all nodes share"
                )

    def start(self, command: Sequence[str], log: Path) -> ClusterProcess:
        """Make a run on any node with free cores, and again on another one if that node dies."""
        ref = ray.remote(run_command).options(**self._options).remote(command, log, self._token)
        return ClusterProcess(ref, log)

    def executor(self) -> ClusterExecutor:
        """Return an executor of functions."""
        return ClusterExecutor(self._options)


@contextmanager
def connect(address: str, out: Path, gpus: float, jobs: int | None) -> Iterator[Cluster]:
    """Connect to a cluster for the block.

    Args:
        address: "ray" starts a cluster on this machine; others are Ray's: "auto" is the one that this machine
            or RAY_ADDRESS belongs to.
        out: folder that every node must be able to read and write.
        gpus: share of a GPU for each task.
        jobs: number of cores of a cluster that is started; all usable ones by default.

    Raises:
        ValueError: there is no such cluster, or it does not have what a task needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # report nothing
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"num_cpus": jobs or len(usable_cores()), "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE}
    elif (found := os.environ.get("RAY_ADDRESS", address) if address == "auto" else address) != "auto":
        check_answers(found)
    try:
        try:
            ray.init("local" if address == LOCAL else address, **options)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"--cluster {address} cannot be used: {error}") from error
        out.mkdir(parents=True, exist_ok=True)
        token = out.absolute() / f".cluster-{uuid.uuid4().hex}"
        token.write_text(token.name, encoding="utf-8")
        try:
            yield Cluster(token, gpus)
        finally:
            token.unlink(missing_ok=True)
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Check that there is a server at host:port; Ray itself would wait for minutes.

    Raises:
        ValueError: there is none.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ValueError(
            f"expected --cluster ray, auto or HOST:PORT, got {address}; the port of a cluster that was "
            "started with ray start is 6379"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise ValueError(
            f"--cluster {address} does not answer ({error}); start the cluster with: ray start --head"
        ) from None


def check_resources(nodes: Sequence[Mapping[str, float]], asked: Mapping[str, float]) -> None:
    """Check that some node has all that a task asks for; Ray itself would wait for such a node.

    Args:
        nodes: the resources of each node.
        asked: the resources of a task.

    Raises:
        ValueError: no node has them.
    """
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
        there = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes)
        raise ValueError(
            f"each run asks for {wanted}, and no node of the cluster has that; the nodes have: {there}"
        )
