"""Compare our time and memory for one product with the Fisher matrix with sb3-contrib's.

    python benchmarks/fisher.py                         # the sizes for which there are goals, and some more
    python benchmarks/fisher.py --full --out fisher.json
    python benchmarks/fisher.py --device cuda --full

Both operators use the same SB3 policy. Ours is `npg.ExactFisher` of our agents' actor. sb3-contrib's is that
of its TRPO, `_compute_actor_grad` and `hessian_vector_product`: a second backward pass through the graph of
the KL's gradient. Both are damped, and the two products are compared before they are timed; sb3-contrib's KL
is a mean over the d action dimensions, so its matrix is 1/d of ours. Products are interleaved. "build" is
what an update needs once before the products, including the gradient of the surrogate, since sb3-contrib
computes both together. Each library is listed with the number of threads with which it is faster.

Memory is measured in a new process: the peak of the resident set during build and product, minus what was
resident before, which includes the observations; on a GPU, what torch's allocator reports. A library is left
out if its measurement at fewer states predicts more memory than the machine has, or a product that takes too
long.

From `--micro-batches-from` states on, ours uses micro-batches, and its "build" has no gradient.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from fisher_products import BUILDERS, Problem, peak_bytes
from measurement import Goal, Ratio, memory_gib, progress, report
from torch import Tensor

# {(network, states): goal for sb3-contrib's time over ours}
SPEED_GOALS = {("11-64-64-3", 2048): 2.0, ("11-256-256-3", 2048): 1.5, ("348-256-256-17", 16384): 1.5}
LARGEST = ("348-256-256-17", 1_000_000)
MEMORY_GOAL_GIB = 4.0
SMALL_STATES = (2048, 16_384)
MIN_SECONDS = 0.05  # the shortest timed series of calls
FULL_STATES = (1024, 2048, 4096, 16_384, 65_536, 262_144, 1_000_000)
FULL_WIDTHS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Arguments:
    """Time products."""

    full: bool = False
    """Measure 1 k to 1 M states and widths 64 to 1024 instead of the sizes of the goals."""
    problems: tuple[str, ...] = ()
    """Measure these networks, observation-hidden-hidden-action; by default, those with goals."""
    states: tuple[int, ...] = ()
    rounds: int = 7
    threads: tuple[int, ...] = (0, 1)
    """Numbers of torch's threads to try with both libraries; 0 is torch's default."""
    device: str = "cpu"
    micro_batch_size: int = 16_384
    micro_batches_from: int = 131_072
    """Use micro-batches for ours from this many states on."""
    memory: bool = True
    """Measure memory."""
    large: bool = True
    """Measure the memory of 1 M states even without --full."""
    max_seconds: float = 60.0
    """Leave out products that are expected to take longer."""
    out: Path | None = None
    """Write the numbers into this JSON file."""

    @property
    def cells(self) -> list[Problem]:
        """Return the problems, for every network from few states to many."""
        names = self.problems or tuple(network for network, _ in SPEED_GOALS)
        if self.full and not self.problems:
            names = (*(f"11-{width}-{width}-3" for width in FULL_WIDTHS), LARGEST[0])
        states = self.states or (FULL_STATES if self.full else SMALL_STATES)
        cells = [self.problem(name, n) for name in names for n in sorted(states)]
        return cells

    def problem(self, network: str, states: int) -> Problem:
        """Return a problem."""
        micro = self.micro_batch_size if states >= self.micro_batches_from else None
        return Problem(network, states, self.device, micro)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def repeats(function: Callable[[], Any], device: str) -> int:
    """Return a number of calls that together take long enough to be timed."""
    return max(1, min(50, round(MIN_SECONDS / seconds(function, device))))


def mean_seconds(operator: Callable[[Tensor], Tensor], vector: Tensor, calls: int, device: str) -> float:
    """Return the mean seconds of a product."""

    def products() -> None:
        for _ in range(calls):
            operator(vector)

    return seconds(products, device) / calls


def times(problem: Problem, rounds: int, libraries: list[str]) -> dict[str, dict[str, list[float]]]:
    """Return {library: the seconds of every build and product}."""
    policy = problem.policy()
    observations, vector = problem.observations(), problem.vector(policy)
    builds: dict[str, list[float]] = {library: [] for library in libraries}
    products: dict[str, list[float]] = {library: [] for library in libraries}
    operators: dict[str, Callable[[Tensor], Tensor]] = {}
    for _ in range(4):  # the first build allocates memory
        for library in libraries:
            operators.pop(library, None)  # so that only one graph is in memory

            def build(library: str = library) -> None:
                operators[library] = BUILDERS[library](problem, policy, observations)

            builds[library].append(seconds(build, problem.device))
    found = {library: operators[library](vector) for library in libraries}
    if len(found) == 2:
        ours, theirs = found["ours"] / problem.actions, found["sb3-contrib"]
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4 * float(theirs.abs().max()))
    calls = {name: repeats(partial(operator, vector), problem.device) for name, operator in operators.items()}
    for _ in range(rounds):
        for library in libraries:
            products[library].append(mean_seconds(operators[library], vector, calls[library], problem.device))
    return {library: {"build": builds[library][1:], "product": products[library]} for library in libraries}


def extra_bytes(problem: Problem, library: str) -> int:
    """Return the bytes of memory that building and a product take in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=peak_bytes, args=(sender, problem, library))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    finally:
        process.join()


class Budget:
    """Predict a library's time and memory at more states from those at fewer states."""

    def __init__(self, arguments: Arguments):
        self._max_seconds = arguments.max_seconds
        gpu = arguments.device.startswith("cuda")
        total = torch.cuda.get_device_properties(0).total_memory if gpu else memory_gib() * 2**30
        self._bytes = 0.8 * total
        self._per_state: dict[tuple[str, str], tuple[float, float]] = {}

    def record(self, problem: Problem, library: str, seconds: float, memory: float) -> None:
        """Record the time and memory of a product."""
        self._per_state[problem.network, library] = seconds / problem.states, memory / problem.states

    def reason_to_skip(self, problem: Problem, library: str) -> str | None:
        """Return why a problem is too large, or None if it is not."""
        taken, memory = self._per_state.get((problem.network, library), (0.0, 0.0))
        if taken * problem.states > self._max_seconds:
            return f"about {taken * problem.states:.0f} s per product"
        if library == "sb3-contrib" and memory * problem.states > self._bytes:
            return f"about {memory * problem.states / 2**30:.0f} GiB"
        return None


def measure(problem: Problem, arguments: Arguments, budget: Budget) -> tuple[dict[str, Any], Ratio | None]:
    """Return a row of the table, and our speed-up, each library with its best number of threads."""
    row: dict[str, Any] = {"network": problem.network, "states": problem.states}
    row["micro-batch"] = problem.micro_batch_size
    skipped = {library: budget.reason_to_skip(problem, library) for library in BUILDERS}
    libraries = [library for library, reason in skipped.items() if reason is None]
    default, found = torch.get_num_threads(), {}
    for threads in arguments.threads:
        torch.set_num_threads(threads or default)
        found[threads] = times(problem, arguments.rounds, libraries)
    torch.set_num_threads(default)
    series = {}
    for library in BUILDERS:
        row[f"{library} ms"] = row[f"{library} build ms"] = None
        row[f"{library} MiB"] = skipped[library]
        if library not in libraries:
            continue
        threads = min(arguments.threads, key=lambda t: median(found[t][library]["product"]))
        measured = found[threads][library]
        series[library] = measured["product"]
        row[f"{library} ms"] = 1e3 * median(measured["product"])
        row[f"{library} build ms"] = 1e3 * median(measured["build"])
        taken = extra_bytes(problem, library) if arguments.memory else 0
        row[f"{library} MiB"] = taken / 2**20 if arguments.memory else None
        budget.record(problem, library, median(measured["product"]), taken)
    ratio = Ratio.between(series["sb3-contrib"], series["ours"]) if len(series) == 2 else None
    row["ratio"] = str(ratio) if ratio else None
    return row, ratio


def memory_goal(arguments: Arguments, rows: list[dict[str, Any]]) -> Goal:
    """Return the goal for the memory at 1 M states; measure that if it is not in the rows."""
    network, states = LARGEST
    known = [r["ours MiB"] for r in rows if (r["network"], r["states"]) == LARGEST]
    if known and isinstance(known[0], float):
        gib = known[0] / 2**10
    else:
        progress(f"memory of {states} states of {network}")
        gib = extra_bytes(arguments.problem(network, states), "ours") / 2**30
    return Goal(
        f"memory of a product, {network}, {states} states", gib, MEMORY_GOAL_GIB, " GiB", at_most=True
    )


def main(arguments: Arguments) -> None:
    """Time, and print the table."""
    rows, goals, budget = [], [], Budget(arguments)
    for problem in arguments.cells:
        progress(f"{problem.network}, {problem.states} states")
        row, ratio = measure(problem, arguments, budget)
        rows.append(row)
        bound = SPEED_GOALS.get((problem.network, problem.states))
        if bound is not None and ratio is not None:
            text = f"Fisher product, {problem.network}, {problem.states} states, sb3-contrib's time over ours"
            goals.append(Goal(text, ratio.of_medians, bound))
    if arguments.memory and (arguments.full or arguments.large):
        goals.append(memory_goal(arguments, rows))
    report("fisher", arguments, {f"Fisher product, {arguments.device}": rows}, goals)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
