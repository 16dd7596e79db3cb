"""The speed benchmarks run at tiny sizes, and what they say is computed as it should be."""

import importlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the scripts find each other, as `python benchmarks/x.py` does, and give the threads back."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)


def script(name: str) -> ModuleType:
    """Return a module of benchmarks/."""
    return importlib.import_module(name)


class TestMeasurement:
    """benchmarks/measurement.py."""

    def test_a_ratio_by_medians_and_by_rounds(self) -> None:
        """Medians 4 and 2; in the rounds 4, 1 and 2 times."""
        ratio = script("measurement").Ratio.between([4.0, 2.0, 6.0], [1.0, 2.0, 3.0])
        assert (ratio.of_medians, ratio.of_rounds) == (2.0, 2.0)
        ratio = script("measurement").Ratio.between([10.0, 1.0, 4.0], [1.0, 1.0, 2.0])
        assert (ratio.of_medians, ratio.of_rounds) == (4.0, 2.0)

    def test_a_ratio_needs_the_same_rounds(self) -> None:
        """A contestant that missed one has no ratio."""
        with pytest.raises(ValueError, match="argument 2"):
            script("measurement").Ratio.between([1.0, 2.0], [1.0])

    @pytest.mark.parametrize(
        ("measured", "at_most", "verdict"),
        [(2.0, False, "holds"), (1.9, False, "FAILS"), (2.0, True, "holds"), (2.1, True, "FAILS")],
    )
    def test_a_claim(self, measured: float, at_most: bool, verdict: str) -> None:
        """A bound that is reached exactly holds, from either side; NaN never does."""
        claim = script("measurement").Claim("speed", measured, 2.0, at_most=at_most)
        assert str(claim).endswith(verdict)
        assert not script("measurement").Claim("speed", math.nan, 2.0, at_most=at_most).holds

    def test_best(self) -> None:
        """By the median, and not by the luckiest round."""
        best = script("measurement").best
        series = {"lucky": [1.0, 1.0, 9.0], "steady": [2.0, 2.0, 2.0]}
        assert (best(series), best(series, lowest=True)) == ("steady", "lucky")

    def test_a_table(self) -> None:
        """One line a row under the first row's keys; nothing measured is a dash."""
        table = script("measurement").markdown_table([{"a": 1.2345, "b": "x"}, {"a": None, "b": 123456.7}])
        assert table.splitlines() == [
            "| a    | b      |",
            "| ---- | ------ |",
            "| 1.23 | x      |",
            "| -    | 123457 |",
        ]

    def test_the_environment(self) -> None:
        """Everything that a number has to be read with, and writable as JSON."""
        found = json.loads(json.dumps(script("measurement").environment()))
        assert found["cpu"] and found["cores"] >= 1 and found["memory_gib"] > 0
        assert {"python", "torch", "numpy", "gymnasium", "stable-baselines3"} <= set(found["versions"])


@contextmanager
def counting(start: int) -> Iterator[Callable[[], dict[str, float]]]:
    """A contestant that counts its turns."""
    count = start

    def turn() -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 13:
            raise RuntimeError("unlucky")
        return {"count": float(count), "threads": float(torch.get_num_threads())}

    yield turn


def test_contestants_take_turns() -> None:
    """The warm-up does not count, threads are a contestant's own, and one that fails is left out by name."""
    contestants = {"a": (counting, 0, 1), "fails": (counting, 11, 0), "unready": (int, "no number", 0)}
    results, failures = script("contestants").interleave(contestants, rounds=2)
    assert [turn["count"] for turn in results["a"]] == [2.0, 3.0]
    assert [turn["threads"] for turn in results["a"]] == [1.0, 1.0]
    assert set(results) == {"a"}
    assert "unlucky" in failures["fails"] and "invalid literal" in failures["unready"]


def in_this_process(
    contestants: dict[str, tuple[Any, Any, int]], rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Stand in for `interleave`, without the seconds that a process takes to start."""
    results = {}
    for name, (maker, setting, _) in contestants.items():
        with maker(setting) as turn:
            results[name] = [turn() for _ in range(rounds)]
    return results, {}


SMALL: dict[str, dict[str, Any]] = {
    "rollout": {
        "env": ("CartPole-v1",),
        "rollouts": 1,
        "steps": 32,
        "dummy": (2,),
        "subproc": (),
        "ours": (2,),
        "tianshou": (),
    },
    "fisher": {
        "problems": ("3-4-4-2",),
        "states": (16, 64),
        "micro_batches_from": 64,
        "micro_batch_size": 16,
        "large": False,
        "memory": False,
    },
    "update": {"env": "CartPole-v1", "steps": 32, "updates_before": 0, "tianshou": False},
    "training": {
        "env": "CartPole-v1",
        "steps": 64,
        "rollout": 32,
        "dummy": (1, 2),
        "ours": (2,),
        "ours_kinds": ("dummy",),
        "tianshou": (),
    },
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # batch_size=128 of so few states
@pytest.mark.parametrize("name", SMALL)
def test_a_script_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ours and sb3-contrib: a table, and JSON with a row a set-up and what it was measured with."""
    pytest.importorskip("sb3_contrib")
    out = tmp_path / "deep" / "result.json"
    arguments = {"rounds": 1, "threads": (1,), "out": out, **SMALL[name]}
    module = script(name)
    if name != "fisher":
        monkeypatch.setattr(module, "interleave", in_this_process)
    module.main(module.Arguments(**arguments))
    document = json.loads(out.read_text())
    assert document["benchmark"] == name and document["environment"]["versions"]["torch"]
    (rows,) = document["sections"].values()
    text = json.dumps(rows)
    assert len(rows) >= 2 and "sb3-contrib" in text and "ours" in text
    assert "| ---" in capsys.readouterr().out


def test_the_memory_of_a_product() -> None:
    """Micro-batches take less than the one graph, which takes at least its activations."""
    pytest.importorskip("sb3_contrib")
    fisher, products = script("fisher"), script("fisher_products")
    states = 100_000
    kept = fisher.extra_bytes(products.Problem("8-64-64-2", states), "ours")
    micro = fisher.extra_bytes(products.Problem("8-64-64-2", states, micro_batch_size=1000), "ours")
    assert kept > 4 * states * 2 * 64
    assert micro < kept / 4
