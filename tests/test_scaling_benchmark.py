"""The scaling benchmark: its model, its delayed link, and the script at tiny sizes."""

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

ECHO = """
import socket
server = socket.create_server((%r, 29519))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(1):
    connection.sendall(data)
"""
ROUND_TRIPS = """
import socket, time
connection = socket.create_connection((%r, 29519))
times = []
for _ in range(5):
    start = time.monotonic()
    connection.sendall(b"x")
    connection.recv(1)
    times.append(time.monotonic() - start)
print(min(times))
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the scripts importable, as `python benchmarks/x.py` does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield


def script(name: str) -> ModuleType:
    """Return a module of benchmarks/."""
    return importlib.import_module(name)


class TestModel:
    """benchmarks/scaling_model.py."""

    def test_steps_of_a_ring(self) -> None:
        """With W ranks, an all-reduce has 2(W−1) steps of two latencies, and sends 2(W−1)/W of its bytes."""
        link = script("scaling_model").Link("ring", latency=1.0, bandwidth=10.0, overhead=0.5)
        assert link.seconds("all_reduce", 0.0, 2) == 2 * 2.5
        assert link.seconds("all_reduce", 80.0, 8) == pytest.approx(14 * 2.5 + 14 / 8 * 8.0)
        assert link.seconds("all_gather", 20.0, 8) == pytest.approx(7 * (2.5 + 2.0))
        assert link.seconds("broadcast", 20.0, 8) == pytest.approx(3 * (2.5 + 2.0))

    def test_steps_of_a_tree(self) -> None:
        """Up and down a tree of depth log2 W."""
        link = script("scaling_model").Link("tree", latency=1.0, bandwidth=10.0, overhead=0.5)
        assert link.seconds("all_reduce", 20.0, 8) == pytest.approx(6 * 1.5 + 2 * 2.0)
        assert link.seconds("broadcast", 20.0, 5) == pytest.approx(3 * 1.5 + 2.0)

    @pytest.mark.parametrize("kind", ["ring", "tree"])
    def test_one_rank_communicates_nothing(self, kind: str) -> None:
        """A collective takes no time."""
        link = script("scaling_model").Link(kind, latency=1.0)
        assert not any(link.seconds(name, 8.0, 1) for name in ("all_reduce", "all_gather", "broadcast"))

    def test_the_computation_is_recovered(self) -> None:
        """From times made of known parts, with and without minibatches."""
        fit = script("scaling_model").fit

        def minibatches(states: int, size: int) -> int:
            return 10 * math.ceil(states / size)

        times = {
            (n, size): 0.5 + 0.01 * n + 0.002 * minibatches(n, size)
            for n, size in ((256, 128), (1024, 128), (1024, 256))
        }
        assert fit(times, minibatches) == pytest.approx((0.5, 0.01, 0.002))
        assert fit({(256, 128): 3.06, (1024, 128): 10.74}, minibatches) == pytest.approx((0.5, 0.01, 0.0))

    def test_minibatches_grow_with_the_ranks(self) -> None:
        """Their collectives and steps do; those of the policy do not."""
        model = script("scaling_model")
        collectives = [
            model.Collectives("critic fit", "all_reduce", 10.0, 0.0),
            model.Collectives("policy step", "all_reduce", 5.0, 0.0),
        ]
        update = model.Update(1.0, 0.0, 0.1, collectives, counted_states=128, passes=10, batch_size=128)
        link = model.Link("tree", latency=1.0)
        # 4 ranks of 64 states: 20 minibatches; a collective takes 4 steps
        assert update.seconds(64, 4, link) == pytest.approx(1.0 + 20 * 0.1 + (20 + 5) * 4)
        whole = model.Update(1.0, 0.0, 0.0, collectives, counted_states=128)
        assert whole.seconds(64, 4, link) == pytest.approx(1.0 + (10 + 5) * 4)

    def test_where_scaling_ends(self) -> None:
        """The last W before the first one that is below half the efficiency, and the fastest W."""
        model = script("scaling_model")
        assert model.last_efficient(lambda W: 1 if W < 16 else 0.4 if W < 64 else 0.9) == 8
        update = model.Update(0.0, 1.0, 0.0, [model.Collectives("other", "all_reduce", 1.0, 0.0)], 1)
        (row,) = model.table({"agent": update}, {"link": model.Link("tree", 1.0)}, weak=8, strong=64)
        # weak: 8 s of computation, 2 log2 W s of communication; strong: 64 / W and 2 log2 W
        assert row["link"] in ("16 / 16 (5.33x)", "16 / 32 (5.33x)")


def test_a_link_is_delayed() -> None:
    """A round trip between the namespaces takes twice the delay."""
    delayed_link = script("delayed_link")
    try:
        link = delayed_link.DelayedLink(0.02)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces with TUN devices need root, and `ip`: {error}")
    with link:
        server = subprocess.Popen(
            [*link.inside(1), sys.executable, "-c", ECHO % link.addresses[1]],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        client = [*link.inside(0), sys.executable, "-c", ROUND_TRIPS % link.addresses[1]]
        shortest = float(subprocess.run(client, capture_output=True, text=True, check=True).stdout)
        server.wait(10)
        server.stdout.close()
    assert 0.04 <= shortest < 0.08


@pytest.mark.slow
def test_the_script_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One and two ranks make updates: speeds, parts, collectives, the model and its figure."""
    scaling = script("scaling")
    small: dict[str, Any] = {"env": "CartPole-v1", "vec_env": "dummy", "steps": 64, "rounds": 1, "updates": 1}
    arguments = scaling.Arguments(
        parts=("measure", "model"),
        agents=("TRPO, minibatches", "ACKTR"),
        widths=(8,),
        model_steps=(32, 128),
        variants=False,
        out=tmp_path / "scaling.json",
        figure=tmp_path / "scaling.png",
        **small,
    )
    scaling.main(arguments)
    sections = json.loads((tmp_path / "scaling.json").read_text())["sections"]
    assert [row["agent"] for row in sections["Steps per second"]] == ["TRPO, minibatches", "ACKTR"]
    counts = {(row["agent"], row["part"]): row for row in sections["Collectives per update"]}
    # 10 passes over 128 states of both ranks, in minibatches of 128: one for the gradient, which is gathered
    # since it is small, and two for the number of states
    assert counts["TRPO, minibatches", "critic fit"]["all_gather"] == 30
    assert all(row["KB"] > 0 for row in counts.values())
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "goal: ACKTR: 2 ranks over twice 1 rank, weak" in capsys.readouterr().out
