"""Part 3: one product with the Fisher matrix, and ten iterations of conjugate gradient."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gpu_parts.machine import matmul_flops
from gpu_parts.part import Part
from gpu_parts.problem import GaussianActor, Network, Problem, count_flops
from gpu_parts.timing import PeakMemory, median_seconds, release_memory
from npg import Damped, ExactFisher, KLHessian, KroneckerFisher, LinearOperator, conjugate_gradient

DAMPING = 0.1
ITERATIONS = 10
MOST_ERROR = 1e-2  # the largest relative error of a product in float32; conjugate gradient amplifies errors
KRONECKER_MICRO_BATCH = 16_384  # statistics keep 2 A gradients per state

# (work, seconds, relative error of its result, or None if there is no reference)
Measurement = tuple[str, float, float | None]
Measure = Callable[[Problem, GaussianActor, Tensor, dict[str, Tensor]], Iterator[Measurement]]


def measure_products(part: Part) -> None:
    """Measure every operator on every problem, from the cheapest to the most expensive problem."""
    if importlib.util.find_spec("sb3_contrib") is None:
        part.note("sb3_contrib is not installed; its product was not measured")
    problems = cells(part.device, part.dry_run)
    for position, problem in enumerate(problems):
        skipped = ", ".join(f"{p.network} with {p.states} states" for p in problems[position:])
        actor, observations = problem.actor(), problem.observations()
        references: dict[str, Tensor] = {}
        for operator, measure in operators().items():
            if part.out_of_time(f"from {operator} on: {skipped}"):
                return
            with (
                part.attempt(f"{operator}, {problem.network}, {problem.states} states"),
                PeakMemory(problem.device) as memory,
            ):
                try:
                    for measurement in measure(problem, actor, observations, references):
                        add_row(part, problem, operator, measurement, memory)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    part.add("Fisher matrix", **row(problem, f"{operator}: out of memory"))
            release_memory(problem.device)


def cells(device: torch.device, dry_run: bool) -> list[Problem]:
    """Return the problems."""
    networks = [Network(11, 64), Network(17, 256), Network(17, 1024)]
    states = [2048, 16_384, 131_072, 1_048_576]
    if dry_run:
        networks, states = [Network(11, 8), Network(17, 16)], [64, 256]
    problems = [Problem(network, n, device) for network in networks for n in states]
    return sorted(problems, key=lambda problem: problem.states * problem.network.width**2)


def operators() -> dict[str, Measure]:
    """Return the operators by name; sb3-contrib's if it is installed."""
    found: dict[str, Measure] = {
        "ExactFisher": partial(measure_ours, "ExactFisher"),
        "ExactFisher, micro-batches": partial(measure_ours, "ExactFisher, micro-batches"),
        "KLHessian": partial(measure_ours, "KLHessian"),
        "KroneckerFisher": measure_kronecker,
    }
    if importlib.util.find_spec("sb3_contrib") is not None:
        found["sb3-contrib"] = measure_sb3_contrib
    return found


def row(problem: Problem, work: str) -> dict[str, str | int | float | None]:
    """Return a row without numbers."""
    return {
        "network": str(problem.network),
        "states": problem.states,
        "work": work,
        "ms": None,
        "GFLOP": None,
        "TFLOP/s": None,
        "of matmul": None,
        "peak MiB": None,
        "error": None,
    }


def add_row(
    part: Part, problem: Problem, operator: str, measurement: Measurement, memory: PeakMemory
) -> None:
    """Add a measurement to the table; fail the part if the result is wrong."""
    work, seconds, error = measurement
    flops = flops_of(problem, f"{operator}: {work}")
    measured = row(problem, f"{operator}: {work}")
    measured |= {"ms": 1e3 * seconds, "peak MiB": memory.so_far(), "error": error}
    if flops is not None:
        rate = flops / seconds
        measured |= {"GFLOP": flops / 1e9, "TFLOP/s": rate / 1e12}
        measured["of matmul"] = rate / matmul_flops(part.device, part.dry_run)
    part.add("Fisher matrix", **measured)
    if error is not None and work.startswith("product") and not error <= MOST_ERROR:
        part.fail(
            f"{operator}: {work}, {problem.network}, {problem.states} states: relative error {error:.2g}"
        )


def flops_of(problem: Problem, work: str) -> float | None:
    """Return the operations of a piece of work, or None if no formula is known."""
    known = count_flops(problem.network, problem.states)
    if work.endswith(f"CG({ITERATIONS})"):
        return ITERATIONS * known[work.replace(f"CG({ITERATIONS})", "product")]
    return known.get(work)


def measure_ours(
    name: str, problem: Problem, actor: GaussianActor, observations: Tensor, references: dict[str, Tensor]
) -> Iterator[Measurement]:
    """Yield building, product and CG of an operator; the first operator's product is the reference."""
    build: Callable[[], LinearOperator] = {
        "ExactFisher": lambda: ExactFisher(actor, observations),
        "ExactFisher, micro-batches": lambda: ExactFisher(
            actor, observations, micro_batch_size=problem.micro_batch_size
        ),
        "KLHessian": lambda: KLHessian(actor, observations),
    }[name]
    if name != "ExactFisher, micro-batches":  # this one builds nothing beforehand
        yield "build", median_seconds(build, problem.device), None
    fisher = build()
    vector = problem.normal(fisher.size, seed=2)
    product = fisher @ vector
    reference = references.setdefault("product", product)
    seconds = median_seconds(lambda: fisher @ vector, problem.device)
    yield "product", seconds, relative_error(product, reference)
    damped = Damped(fisher, DAMPING)

    def solve() -> Tensor:
        return conjugate_gradient(damped, vector, max_iterations=ITERATIONS, tolerance=0).x

    solution = solve()
    reference = references.setdefault("CG", solution)
    yield f"CG({ITERATIONS})", median_seconds(solve, problem.device), relative_error(solution, reference)


def measure_kronecker(
    problem: Problem, actor: GaussianActor, observations: Tensor, references: dict[str, Tensor]
) -> Iterator[Measurement]:
    """Yield statistics, inverse and product with the inverse; the inverse is checked against the matrix."""
    size = KRONECKER_MICRO_BATCH if problem.states > KRONECKER_MICRO_BATCH else None
    fisher = KroneckerFisher(actor, micro_batch_size=size)
    yield "statistics", median_seconds(lambda: fisher.update(observations), problem.device), None
    yield "inverse", median_seconds(lambda: fisher.inverse(DAMPING), problem.device), None
    inverse, vector = fisher.inverse(DAMPING), problem.normal(fisher.size, seed=2)
    error = relative_error(inverse @ (fisher.damped(DAMPING) @ vector), vector)
    yield "product with inverse", median_seconds(lambda: inverse @ vector, problem.device), error


def measure_sb3_contrib(
    problem: Problem, actor: GaussianActor, observations: Tensor, references: dict[str, Tensor]
) -> Iterator[Measurement]:
    """Yield building, product and CG of sb3-contrib's TRPO, with its own methods.

    Its policy has parameters of the same shapes, but with other values; `benchmarks/fisher.py` compares the
    products.
    """
    import fisher_products
    from sb3_contrib.common.utils import conjugate_gradient_solver

    sb3_problem = fisher_products.Problem(str(problem.network), problem.states, str(problem.device))
    agent = sb3_problem.policy()
    build = partial(fisher_products.build_sb3_contrib, sb3_problem, agent, observations)
    yield "build", median_seconds(build, problem.device), None
    product, vector = build(), sb3_problem.vector(agent)
    yield "product", median_seconds(lambda: product(vector), problem.device), None
    solve = partial(conjugate_gradient_solver, product, vector, max_iter=ITERATIONS, residual_tol=0)
    yield f"CG({ITERATIONS})", median_seconds(solve, problem.device), None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch, or a library that it calls, could not allocate memory on the device."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return ‖value − reference‖ / ‖reference‖."""
    return float(torch.linalg.vector_norm(value - reference) / torch.linalg.vector_norm(reference))
