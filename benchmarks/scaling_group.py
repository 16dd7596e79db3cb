"""Ranks of the scaling benchmark as processes, on this machine or on both ends of a delayed link."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from delayed_link import DelayedLink
from other_load import OtherLoad
from scaling_worker import Task

WORKER = Path(__file__).with_name("scaling_worker.py")
PORT = 29_518
CLOSE_TIMEOUT = 30.0  # seconds


class RankGroup:
    """Ranks that wait for measurements to make.

    Args:
        ranks: their number.
        link: a link with one rank on each end; None for all ranks on this machine.
    """

    def __init__(self, ranks: int, link: DelayedLink | None = None):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment["PYTHONPATH"] = f"{WORKER.parents[1]}:{environment.get('PYTHONPATH', '')}"
        launcher = [sys.executable, "-m", "torch.distributed.run"]
        commands = [[*launcher, "--standalone", "--nproc-per-node", str(ranks), str(WORKER)]]
        if link is not None:
            environment["GLOO_SOCKET_IFNAME"] = link.device
            joint = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", link.addresses[0]]
            commands = [
                [
                    *link.inside(end),
                    *launcher,
                    *joint,
                    f"--master-port={PORT}",
                    f"--node-rank={end}",
                    str(WORKER),
                ]
                for end in (0, 1)
            ]
        pipe = subprocess.PIPE
        self._processes = [
            subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
            for command in commands
        ]

    def updates(self, task: Task) -> dict[str, Any]:
        """Make updates; see `scaling_worker.time_updates`, and how many cores others used ("others")."""
        with OtherLoad([os.getpid()]) as load:
            result = self._ask(asdict(task))
        return result | {"others": load.cores}

    def least_disturbed(self, task: Task, attempts: int, most_others: float) -> dict[str, Any]:
        """Make updates again until others use few cores; return the measurement with the fewest."""
        results = []
        for _ in range(attempts):
            results.append(self.updates(task))
            if results[-1]["others"] <= most_others:
                break
        return min(results, key=lambda result: result["others"])

    def collectives(self, sizes: Sequence[int]) -> dict[str, list[float]]:
        """Time collectives; see `scaling_worker.time_collectives`."""
        return self._ask({"sizes": list(sizes)})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        first = self._processes[0]
        assert first.stdin is not None and first.stdout is not None
        print(json.dumps(request), file=first.stdin, flush=True)
        if not (reply := first.stdout.readline()):
            raise RuntimeError(f"a rank failed in {request}; its error is above")
        return json.loads(reply)

    def close(self) -> None:
        """End the ranks."""
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(CLOSE_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun then ends its ranks
                process.wait()
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
