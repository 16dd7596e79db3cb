"""benchmarks/gpu.py runs without a GPU at small sizes, keeps what it measured, and counts correctly."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from npg import DiagGaussian, ExactFisher, KLHessian, KroneckerFisher

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SB3_CONTRIB = importlib.util.find_spec("sb3_contrib") is not None


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of benchmarks/ importable, as `python benchmarks/gpu.py` does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def script(name: str) -> Any:
    """Return a module of benchmarks/."""
    return importlib.import_module(name)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the results that a run wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    """All parts succeed in a fresh process, and each one writes its tables and the environment."""
    out = tmp_path / "deep" / "gpu.jsonl"
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_lines(out)
    assert [(line["part"], line["status"]) for line in lines] == [(number, "ok") for number in range(1, 9)]
    assert all(line["environment"]["versions"]["torch"] and line["dry_run"] for line in lines)
    tables = {heading: rows for line in lines for heading, rows in line["tables"].items()}
    assert all(f"{heading}:" in done.stdout for heading in tables)

    assert {row["unit"]: row["value"] for row in tables["machine"]}["TFLOP/s"] > 0
    assert tables["tests marked gpu"][0]["failed"] == 0
    assert any("zero GPU tests ran" in note for note in lines[1]["notes"])
    works = {row["work"] for row in tables["Fisher matrix"]}
    problem = script("gpu_parts.problem")
    known = set(problem.count_flops(problem.Network(11, 8), 1))
    assert works >= {work for work in known if SB3_CONTRIB or not work.startswith("sb3-contrib")}
    assert all(row["ms"] > 0 and row["of matmul"] > 0 for row in tables["Fisher matrix"])
    agents = {"vpg", "npg", "trpo", "acktr"}
    for heading in ("CartPole-v1", "update", "two identical runs"):
        assert {row["agent"] for row in tables[heading]} == agents
    assert all(row["update ms"] > 0 and row["updates"] == 3 for row in tables["CartPole-v1"])
    assert all(row["bitwise equal"] for row in tables["two identical runs"])
    assert {row["chosen"] for row in tables["device=auto"]} == {"cpu"}
    speeds = tables["CartPole-v1 in tensor environments, TRPO"]
    assert [row["mode"] for row in speeds] == ["eager", "captured"]
    assert all(row["million steps/s"] > 0 for row in speeds)
    assert {row["agent"] for row in tables["every agent in tensor environments"]} == agents
    assert all(row["error"] == 0 for row in tables["captured functions"] + tables["whole steps"])
    assert {row["agent"].split(",")[0] for row in tables["agents"]} == {"npg", "trpo"}
    assert all(row["and at the end"] == 0 for row in tables["agents"])


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a CUDA device the command stops at once and names the option that helps."""
    gpu = script("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(gpu.Arguments()) == 2
    assert "--dry-run" in capsys.readouterr().err


def run_parts(
    monkeypatch: pytest.MonkeyPatch, out: Path, *functions: Callable[[Any], None], budget: float = 60.0
) -> int:
    """Run functions as the parts 1, 2, ... and return the exit code."""
    gpu, module = script("gpu"), ModuleType("gpu_parts.fake")
    parts = {}
    for number, function in enumerate(functions, 1):
        setattr(module, f"part{number}", function)
        parts[number] = gpu.Measurement(f"Fake {number}", f"fake:part{number}", budget)
    monkeypatch.setitem(sys.modules, "gpu_parts.fake", module)
    monkeypatch.setattr(gpu, "PARTS", parts)
    return int(gpu.main(gpu.Arguments(parts=tuple(parts), device="cpu", out=out)))


def stopped_by(error: BaseException) -> Callable[[Any], None]:
    """Return a part that adds a row and raises."""

    def run(part: Any) -> None:
        part.add("numbers", value=1.5)
        raise error

    return run


def good_part(part: Any) -> None:
    """Add a row."""
    part.add("numbers", value=2.5)


def test_a_part_that_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported with its traceback and its rows so far; the next part runs; the exit code is 1."""
    out = tmp_path / "gpu.jsonl"
    assert run_parts(monkeypatch, out, stopped_by(RuntimeError("broken cable")), good_part) == 1
    first, second = read_lines(out)
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert "RuntimeError: broken cable" in first["traceback"]
    assert first["tables"] == {"numbers": [{"value": 1.5}]}
    assert "RuntimeError: broken cable" in capsys.readouterr().out


def test_a_part_that_finds_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exit code is 1 without an exception, too."""
    out = tmp_path / "gpu.jsonl"
    assert run_parts(monkeypatch, out, lambda part: part.fail("wrong")) == 1
    (line,) = read_lines(out)
    assert (line["status"], line["failures"], line["traceback"]) == ("failed", ["wrong"], None)


def test_an_interrupted_part_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its rows so far, and no later part runs."""
    out = tmp_path / "gpu.jsonl"
    assert run_parts(monkeypatch, out, good_part, stopped_by(KeyboardInterrupt()), good_part) == 130
    assert [line["status"] for line in read_lines(out)] == ["ok", "interrupted"]
    assert read_lines(out)[1]["tables"] == {"numbers": [{"value": 1.5}]}


def test_a_used_up_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sweep stops, names what it left out, and does not count as failed."""
    out = tmp_path / "gpu.jsonl"
    sweep = script("gpu_parts.products").measure_products
    assert run_parts(monkeypatch, out, sweep, budget=0.0) == 0
    (line,) = read_lines(out)
    assert line["status"] == "incomplete" and line["tables"] == {}
    assert "budget" in line["notes"][-1] and "17-1024-1024-6 with 1048576 states" in line["notes"][-1]


def test_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that does not fit, or that raises, leaves the others to be measured."""
    products, problem = script("gpu_parts.products"), script("gpu_parts.problem")

    def raises(error: Exception) -> Any:
        def measure(*_: Any) -> Any:
            raise error
            yield

        return measure

    operators = {
        "large": raises(torch.OutOfMemoryError("CUDA out of memory")),
        "broken": raises(RuntimeError("device-side assert")),
        "ExactFisher": products.operators()["ExactFisher"],
    }
    small = problem.Problem(problem.Network(3, 4, 2), 16, CPU)
    monkeypatch.setattr(products, "operators", lambda: operators)
    monkeypatch.setattr(products, "cells", lambda *_: [small])
    part = script("gpu_parts.part").Part("a part", CPU, dry_run=True, budget=60.0)
    products.measure_products(part)
    works = [row["work"] for row in part.tables["Fisher matrix"]]
    assert works[0] == "large: out of memory" and works[-1] == "ExactFisher: CG(10)"
    (failure,) = part.failures
    assert failure.startswith("broken, 3-4-4-2, 16 states") and "device-side assert" in failure


def count(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the floating-point operations of a piece of work, counted by torch, and its result."""

    def addmm(own: Any, a: Any, b: Any, out_shape: Any = None, **_: Any) -> int:
        return int(2 * a[0] * a[1] * b[1])

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm})
    with counter:
        result = work()
    return counter.get_total_flops(), result


def test_flop_formulas() -> None:
    """They are what torch counts."""
    problem = script("gpu_parts.problem")
    network = problem.Network(11, 24)
    sizes = problem.Problem(network, 40, CPU)
    actor, observations = sizes.actor(), sizes.observations()
    known = problem.count_flops(network, 40)
    for operator in (ExactFisher, KLHessian):  # the first of an actor tries a product
        operator(actor, observations)
    found: dict[str, float] = {}
    found["ExactFisher: build"], exact = count(lambda: ExactFisher(actor, observations))
    vector = sizes.normal(exact.size, seed=2)
    found["ExactFisher: product"], _ = count(lambda: exact @ vector)
    micro = ExactFisher(actor, observations, micro_batch_size=10)
    found["ExactFisher, micro-batches: product"], _ = count(lambda: micro @ vector)
    found["KLHessian: build"], hessian = count(lambda: KLHessian(actor, observations))
    found["KLHessian: product"], _ = count(lambda: hessian @ vector)
    found["KroneckerFisher: statistics"], kronecker = count(lambda: KroneckerFisher(actor, observations))
    inverse = kronecker.inverse(0.1)
    found["KroneckerFisher: product with inverse"], _ = count(lambda: inverse @ vector)
    assert found == {work: known[work] for work in found}


def test_flop_formulas_of_sb3_contrib() -> None:
    """They are what torch counts."""
    pytest.importorskip("sb3_contrib")
    problem, products = script("gpu_parts.problem"), script("fisher_products")
    network = problem.Network(11, 24)
    theirs = products.Problem(str(network), 40)
    agent = theirs.policy()
    build, product = count(lambda: products.build_sb3_contrib(theirs, agent, theirs.observations()))
    vector = theirs.vector(agent)
    known = problem.count_flops(network, 40)
    assert build == known["sb3-contrib: build"]
    assert count(lambda: product(vector))[0] == known["sb3-contrib: product"]


def test_synchronisations_are_counted_by_line() -> None:
    """A warning of torch counts for the innermost line of our packages."""
    updates = script("gpu_parts.updates")

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, observations: Tensor) -> DiagGaussian:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return DiagGaussian(self.layer(observations), torch.zeros(2))

    counts = Counter[str]()
    with updates.count_synchronisations(counts):
        for _ in range(2):
            ExactFisher(Waiting(), torch.zeros(4, 3))
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert counts.pop("outside of npg, agents and envs") == 1
    ((line, number),) = counts.items()
    assert line.startswith("npg/") and "actor(observations)" in line and number == 2


def test_pytest_outcomes() -> None:
    """Counts are read off the last line."""
    output = (
        "FAILED tests/a.py::b - 3 failed\n1 failed, 60 passed, 2 skipped, 75 deselected, 1 error in 9.5s\n"
    )
    counts = script("gpu_parts.gpu_tests").count_outcomes(output)
    assert counts == {"passed": 60, "failed": 1, "error": 1, "skipped": 2}
