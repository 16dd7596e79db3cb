"""The speed benchmarks run at tiny sizes and compute ratios, goals and tables correctly."""

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
    """Make the scripts importable, as `python benchmarks/x.py` does, and restore the number of threads."""
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
        """Series of different lengths have no ratio."""
        with pytest.raises(ValueError, match="argument 2"):
            script("measurement").Ratio.between([1.0, 2.0], [1.0])

    @pytest.mark.parametrize(
        ("measured", "at_most", "verdict"),
        [(2.0, False, "reached"), (1.9, False, "MISSED"), (2.0, True, "reached"), (2.1, True, "MISSED")],
    )
    def test_a_goal(self, measured: float, at_most: bool, verdict: str) -> None:
        """A number equal to the bound reaches the goal, on either side; NaN never does."""
        goal = script("measurement").Goal("speed", measured, 2.0, at_most=at_most)
        assert str(goal).endswith(verdict)
        assert not script("measurement").Goal("speed", math.nan, 2.0, at_most=at_most).reached

    def test_best(self) -> None:
        """The best series is that with the best median, not that with the best round."""
        best = script("measurement").best
        series = {"lucky": [1.0, 1.0, 9.0], "steady": [2.0, 2.0, 2.0]}
        assert (best(series), best(series, lowest=True)) == ("steady", "lucky")

    def test_a_table(self) -> None:
        """One line per row under the first row's keys; a missing value is a dash."""
        table = script("measurement").markdown_table([{"a": 1.2345, "b": "x"}, {"a": None, "b": 123456.7}])
        assert table.splitlines() == [
            "| a    | b      |",
            "| ---- | ------ |",
            "| 1.23 | x      |",
            "| -    | 123457 |",
        ]

    def test_the_environment(self) -> None:
        """Hardware and versions, which can be written as JSON."""
        found = json.loads(json.dumps(script("measurement").environment()))
        assert found["cpu"] and found["cores"] >= 1 and found["memory_gib"] > 0
        assert {"python", "torch", "numpy", "gymnasium", "stable-baselines3"} <= set(found["versions"])


@contextmanager
def counting(start: int) -> Iterator[Callable[[], dict[str, float]]]:
    """A measurement that counts its calls, and fails at the thirteenth."""
    count = start

    def measure_once() -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 13:
            raise RuntimeError("thirteenth call")
        return {"count": float(count), "threads": float(torch.get_num_threads())}

    yield measure_once


@pytest.mark.slow
def test_rounds_are_interleaved() -> None:
    """The warm-up is not recorded, each process has its own threads, and failures are left out by name."""
    configurations = {"a": (counting, 0, 1), "fails": (counting, 11, 0), "invalid": (int, "no number", 0)}
    results, failures = script("interleaved").interleave(configurations, rounds=2)
    assert [result["count"] for result in results["a"]] == [2.0, 3.0]
    assert [result["threads"] for result in results["a"]] == [1.0, 1.0]
    assert set(results) == {"a"}
    assert "thirteenth call" in failures["fails"] and "invalid literal" in failures["invalid"]


def in_this_process(
    configurations: dict[str, tuple[Any, Any, int]], rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Replace `interleave`, without the seconds that a process takes to start."""
    results = {}
    for name, (factory, setting, _) in configurations.items():
        with factory(setting) as measure_once:
            results[name] = [measure_once() for _ in range(rounds)]
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
    """With ours and sb3-contrib: a table, and JSON with a row per configuration and the versions."""
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


@pytest.mark.slow
def test_the_memory_of_a_product() -> None:
    """Micro-batches take less memory than one graph, which takes at least its activations."""
    pytest.importorskip("sb3_contrib")
    fisher, products = script("fisher"), script("fisher_products")
    states = 100_000
    kept = fisher.extra_bytes(products.Problem("8-64-64-2", states), "ours")
    micro = fisher.extra_bytes(products.Problem("8-64-64-2", states, micro_batch_size=1000), "ours")
    assert kept > 4 * states * 2 * 64
    assert micro < kept / 4


def test_fits_of_the_critic_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row per fit; longer fits of the same states have smaller errors on them."""
    module = script("critic_fits")
    monkeypatch.setattr(module, "PASSES", {"lbfgs": (1, 8), "minibatch": (1,)})
    arguments = module.Arguments(
        env=("Pendulum-v1",), steps=512, seeds=(1,), vec_env="dummy", set=("n_steps=32",)
    )
    tables: list[str] = []
    module.main(arguments, tables.append)
    rows = [line.split() for line in tables[0].splitlines()[2:] if line]
    assert [row[:2] for row in rows] == [["lbfgs", "1"], ["lbfgs", "8"], ["minibatch", "1"]]
    assert 0 < float(rows[1][2]) < float(rows[0][2]) < 1
