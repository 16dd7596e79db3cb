"""Experiments of part 7: where the time of a replay goes, what other settings give, and what fails."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpu_parts.part import Part
from gpu_parts.problem import Problem
from gpu_parts.products import relative_error
from gpu_parts.timing import median_seconds
from npg import Captured, SurrogateObjective, cuda_graph

Function = Callable[..., Tensor]
MOST_KERNELS = 15  # rows of the profile


def run_experiments(part: Part, problem: Problem, function: Function, arguments: tuple[Any, ...]) -> None:
    """Run experiments on a function: the solution of ten iterations of conjugate gradient."""
    if part.device.type != "cuda":
        part.note("no CUDA device: no experiments")
        return
    for experiment in (measure_overhead, compare_settings, profile_replay):
        if part.out_of_time(experiment.__name__):
            return
        with part.attempt(experiment.__name__):
            experiment(part, problem, function, arguments)


def measure_overhead(part: Part, problem: Problem, function: Function, arguments: tuple[Any, ...]) -> None:
    """Measure a call with a small graph: its copies, launch and Python code."""
    ones = torch.ones(8, device=part.device)
    for operations in (1, 10, 100, 1000):

        def chain(x: Tensor, count: int = operations) -> Tensor:
            for _ in range(count):
                x = x + 1
            return x

        captured = Captured(chain, part.device)
        captured(ones)
        replay = next(iter(captured._recordings.values())).graph.replay
        part.add(
            "additions of 8 numbers",
            operations=operations,
            **{
                "eager µs": 1e6 * median_seconds(lambda f=chain: f(ones), part.device),
                "captured µs": 1e6 * median_seconds(lambda f=captured: f(ones), part.device),
                "replay µs": 1e6 * median_seconds(replay, part.device),
            },
        )
        captured.forget()


def profile_replay(part: Part, problem: Problem, function: Function, arguments: tuple[Any, ...]) -> None:
    """List the kernels of one replay by their total duration."""
    captured = Captured(function, part.device)
    captured(*arguments)
    replay = next(iter(captured._recordings.values())).graph.replay
    seconds = median_seconds(replay, part.device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        replay()
        torch.cuda.synchronize()
    counts, durations = Counter[str](), defaultdict(float)
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            counts[event.name] += 1
            durations[event.name] += event.time_range.elapsed_us()
    part.add(
        "kernels of one replay",
        kernel=f"all {counts.total()}, in a replay of {1e6 * seconds:.0f} µs",
        count=counts.total(),
        µs=sum(durations.values()),
    )
    for name in sorted(durations, key=lambda name: -durations[name])[:MOST_KERNELS]:
        part.add("kernels of one replay", kernel=name[:110], count=counts[name], µs=durations[name])
    if not durations:
        part.note("torch.profiler reported no kernels")
    captured.forget()


def compare_settings(part: Part, problem: Problem, function: Function, arguments: tuple[Any, ...]) -> None:
    """Measure replays of captures with other settings; failures are results, not failures of the part."""
    reference = function(*arguments).clone()
    variants: dict[str, Callable[[], Any]] = {
        "as shipped": lambda: error_mode(cuda_graph.ERROR_MODE),
        "errors of all threads count": lambda: error_mode("global"),
        "errors do not count": lambda: error_mode("relaxed"),
        "cuBLAS": lambda: blas_library("cublas"),
        "cuBLASLt": lambda: blas_library("cublaslt"),
        "TF32": lambda: precision("high"),
    }
    for name, variant in variants.items():
        captured = Captured(function, part.device)
        row: dict[str, Any] = {"replay ms": None, "error": None}
        try:
            with variant():
                error = relative_error(captured(*arguments), reference)
            replay = next(iter(captured._recordings.values())).graph.replay
            row = {"replay ms": 1e3 * median_seconds(replay, part.device), "error": error}
            result = captured.failure or "captured"
        except Exception as error:
            result = first_line(error)
        part.add("settings of the capture", setting=name, **row, result=captured.failure or result)
        captured.forget()


@contextmanager
def error_mode(mode: str) -> Iterator[None]:
    """Capture in this mode inside the block."""
    before, cuda_graph.ERROR_MODE = cuda_graph.ERROR_MODE, mode
    try:
        yield
    finally:
        cuda_graph.ERROR_MODE = before


@contextmanager
def blas_library(name: str) -> Iterator[None]:
    """Prefer a library inside the block."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Allow a precision of float32 matrix products inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_failures(part: Part, problem: Problem, data: dict[str, Any]) -> None:
    """Provoke captures that fail, and check after each that torch works; nothing should follow this."""
    actor = problem.actor()
    older = actor(data["observations"]).mean.sum()  # a graph of autograd on the default stream

    def with_old_parameters(data: dict[str, Any]) -> Tensor:
        return SurrogateObjective(actor, **data).gradient()

    def reading(data: dict[str, Any]) -> Tensor:
        total = data["advantages"].sum()
        return total * float(total)

    def reading_in_capture(data: dict[str, Any]) -> Tensor:
        total = data["advantages"].sum() + torch.rand((), device=part.device)
        return total * float(total) if torch.cuda.is_current_stream_capturing() else total

    def raising_in_capture(data: dict[str, Any]) -> Tensor:
        noise = torch.rand(3, device=part.device)
        if torch.cuda.is_current_stream_capturing():
            raise ValueError("during the capture")
        return noise

    def copying(data: dict[str, Any]) -> Tensor:
        return data["advantages"] * torch.tensor(2.0, device=part.device)

    def multinomial(data: dict[str, Any]) -> Tensor:
        return torch.multinomial(data["advantages"].abs().reshape(-1, 2), 1)

    def dot(data: dict[str, Any]) -> Tensor:
        return data["advantages"] @ data["advantages"]

    cases: dict[str, Function] = {
        "parameters of an older graph of autograd": with_old_parameters,
        "reads a number": reading,
        "reads a number, but only in the capture": reading_in_capture,
        "raises in the capture": raising_in_capture,
        "copies a number from the host": copying,
        "torch.multinomial": multinomial,
        "product of two vectors": dot,
    }
    for name, case in cases.items():
        captured = Captured(case, part.device)
        try:
            captured(data)
            result = captured.failure or "captured"
        except Exception as error:
            result = f"RAISED {first_line(error)}"
        part.add(
            "captures that may fail", function=name, result=result, afterwards=state_of_torch(part.device)
        )
        captured.forget()
    older.backward()
    part.add("captures that may fail", function="backward of the older graph", result="ok", afterwards="")


def state_of_torch(device: torch.device) -> str:
    """Return "ok" if streams, random numbers, memory and captures work; otherwise what does not."""
    problems = []
    checks: dict[str, Callable[[], Any]] = {
        "stream": lambda: _require(torch.cuda.current_stream() == torch.cuda.default_stream()),
        "random": lambda: torch.rand(3, device=device).tolist(),
        "memory": lambda: (torch.cuda.empty_cache(), torch.empty(1 << 24, device=device)),
        "product": lambda: (torch.ones(64, 64, device=device) @ torch.ones(64, device=device)).tolist(),
        "capture": lambda: _check_capture(device),
    }
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            problems.append(f"{name}: {first_line(error)}")
    return "; ".join(problems) or "ok"


def _check_capture(device: torch.device) -> None:
    captured = Captured(lambda x: x + torch.rand(2, device=device), device)
    _require(captured(torch.ones(2)).min() >= 1)
    _require(captured.failure is None)


def _require(condition: Any) -> None:
    if not condition:
        raise AssertionError("not as expected")


def first_line(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}".replace("|", "/")
