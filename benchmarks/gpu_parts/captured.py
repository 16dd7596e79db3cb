"""Part 7: captured steps (CUDA graphs) compared with eager ones: results, time and memory.

`captured_experiments` then shows where the time of a replay goes, and what other settings give.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from gpu_parts.captured_agents import agents, compare_agents
from gpu_parts.captured_experiments import check_failures, run_experiments
from gpu_parts.part import Part
from gpu_parts.problem import Network, Problem
from gpu_parts.products import relative_error
from gpu_parts.timing import PeakMemory, median_seconds, release_memory
from npg import (
    Captured,
    CapturedStep,
    Damped,
    ExactFisher,
    LinearOperator,
    SurrogateObjective,
    conjugate_gradient,
    trust_region_step,
)
from npg.captured_step import fresh_parameters
from npg.conjugate_gradient import solve_unread

DAMPING = 0.1
ITERATIONS = 10
MOST_ERROR = 1e-6
LEAST_SPEEDUP = 5.0  # of CG(10) on the smallest problem

Work = Callable[[nn.Module, dict[str, Any], Tensor], Tensor]


class Diagonal(LinearOperator):
    """A diagonal matrix: one operation per product, so that conjugate gradient itself is measured."""

    def __init__(self, diagonal: Tensor):
        super().__init__(diagonal.numel(), diagonal.dtype, diagonal.device)
        self.diagonal = diagonal

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector."""
        return self.diagonal * vector


def gradient(actor: nn.Module, data: dict[str, Any], vector: Tensor) -> Tensor:
    """Return the gradient of the surrogate."""
    return SurrogateObjective(actor, **data).gradient()


def products(actor: nn.Module, data: dict[str, Any], vector: Tensor) -> Tensor:
    """Return ten products in a row with the damped Fisher matrix, without conjugate gradient."""
    fisher = Damped(ExactFisher(actor, data["observations"]), DAMPING)
    for _ in range(ITERATIONS):
        vector = fisher @ vector
    return vector


def solve(actor: nn.Module, data: dict[str, Any], vector: Tensor) -> Tensor:
    """Return the solution of ten iterations."""
    fisher = Damped(ExactFisher(actor, data["observations"]), DAMPING)
    return solve_unread(fisher, vector, max_iterations=ITERATIONS, tolerance=0).x


def solve_diagonal(actor: nn.Module, data: dict[str, Any], vector: Tensor) -> Tensor:
    """Return the solution of ten iterations with a diagonal matrix."""
    operator = Diagonal(1 + vector.abs())
    return solve_unread(operator, vector, max_iterations=ITERATIONS, tolerance=0).x


WORKS: dict[str, Work] = {
    f"build, CG({ITERATIONS})": solve,
    "gradient": gradient,
    f"build, {ITERATIONS} products": products,
    f"CG({ITERATIONS}) with a diagonal matrix": solve_diagonal,
}


def compare_captured(part: Part) -> None:
    """Compare functions, steps and agents, then run the experiments."""
    if part.device.type != "cuda":
        part.note("no CUDA device: nothing is captured, and both columns are eager")
    problems = [Problem(network, states, part.device) for network, states in sizes(part.dry_run)]
    compare_problem(part, problems[0])
    for name, options in agents().items():
        if part.out_of_time(f"agents from {name} on"):
            break
        with part.attempt(f"{name}, training"):
            compare_agents(part, name, **options)
        release_memory(part.device)
    run_experiments(part, problems[0], in_capture(solve, problems[0].actor()), inputs(problems[0]))
    for problem in problems[1:]:
        if part.out_of_time(f"{problem.network} with {problem.states} states"):
            break
        compare_problem(part, problem)
    if part.device.type == "cuda":
        with part.attempt("captures that fail"):
            check_failures(part, problems[0], inputs(problems[0])[0])


def sizes(dry_run: bool) -> list[tuple[Network, int]]:
    """Return networks and numbers of states, the target's first."""
    if dry_run:
        return [(Network(11, 8), 64)]
    return [
        (Network(11, 64), 2048),
        (Network(17, 256), 2048),
        (Network(11, 64), 16_384),
        (Network(17, 256), 16_384),
        (Network(17, 1024), 16_384),
    ]


def inputs(problem: Problem) -> tuple[dict[str, Any], Tensor]:
    """Return the data of an objective, and a vector of the parameters' length."""
    actor, observations = problem.actor(), problem.observations()
    actions = problem.normal(problem.states, problem.network.actions, seed=3)
    data = {
        "observations": observations,
        "actions": actions,
        "advantages": problem.normal(problem.states, seed=4),
        "old_log_prob": actor(observations).log_prob(actions).detach(),
    }
    return data, problem.normal(sum(p.numel() for p in actor.parameters()), seed=2)


def in_capture(work: Work, actor: nn.Module) -> Callable[[dict[str, Any], Tensor], Tensor]:
    """Return the work on an actor in the form that can be captured, whatever graphs of autograd exist."""

    def run(data: dict[str, Any], vector: Tensor) -> Tensor:
        with fresh_parameters(actor):
            return work(actor, data, vector)

    return run


def compare_problem(part: Part, problem: Problem) -> None:
    """Compare all works and one whole step on a problem."""
    actor, (data, vector) = problem.actor(), inputs(problem)
    for name, work in WORKS.items():
        with (
            part.attempt(f"{name}, {problem.network}, {problem.states} states"),
            PeakMemory(part.device) as m,
        ):
            captured = Captured(in_capture(work, actor), part.device, reads=lambda: list(actor.parameters()))
            compare(part, problem, name, partial(work, actor, data, vector), captured, (data, vector), m)
            captured.forget()
        release_memory(part.device)
    with part.attempt(f"step, {problem.network}, {problem.states} states"):
        compare_steps(part, problem, actor, data)


def compare(
    part: Part,
    problem: Problem,
    name: str,
    eager: Callable[[], Tensor],
    captured: Captured,
    arguments: tuple[Any, ...],
    memory: PeakMemory,
) -> None:
    """Add a row with the results and times of a function, eager and captured."""
    error = relative_error(captured(*arguments), eager())
    again = relative_error(captured(*arguments), eager())
    eager_seconds = median_seconds(eager, part.device)
    captured_seconds = median_seconds(lambda: captured(*arguments), part.device)
    recordings = list(captured._recordings.values())
    replay = median_seconds(recordings[0].graph.replay, part.device) if recordings else None
    part.add(
        "captured functions",
        network=str(problem.network),
        states=problem.states,
        work=name,
        **{
            "eager ms": 1e3 * eager_seconds,
            "captured ms": 1e3 * captured_seconds,
            "of it replay ms": None if replay is None else 1e3 * replay,
            "times faster": eager_seconds / captured_seconds,
            "error": max(error, again),
            "peak MiB": memory.so_far(),
        },
    )
    if captured.failure is not None:
        part.fail(f"{name}: {captured.failure}")
    if not max(error, again) <= MOST_ERROR:
        part.fail(f"{name}: captured and eager results differ by {error:.2g}, then by {again:.2g}")
    first = problem.states == 2048 and problem.network.width == 64
    if first and name.endswith(f"CG({ITERATIONS})") and eager_seconds < LEAST_SPEEDUP * captured_seconds:
        part.fail(f"{name}: expected at least {LEAST_SPEEDUP:g} times eager, got the row above")


def compare_steps(part: Part, problem: Problem, actor: nn.Module, data: dict[str, Any]) -> None:
    """Add a row with a whole trust-region step, including the objective and host reads; three candidates."""
    steps = CapturedStep(actor, ExactFisher, max_iterations=ITERATIONS, tolerance=0)
    solver = partial(conjugate_gradient, max_iterations=ITERATIONS, tolerance=0)

    def eager(target_kl: float) -> Any:
        objective = SurrogateObjective(actor, **data)
        fisher = ExactFisher(actor, data["observations"])
        return trust_region_step(objective, fisher, target_kl=target_kl, solver=solver)

    def captured(target_kl: float) -> Any:
        return steps.trust_region_step(SurrogateObjective(actor, **data), target_kl=target_kl)

    for target_kl in (0.01, 1.0):
        ours, theirs = captured(target_kl), eager(target_kl)
        eager_seconds = median_seconds(partial(eager, target_kl), part.device)
        captured_seconds = median_seconds(partial(captured, target_kl), part.device)
        error = relative_error(ours.displacement, theirs.displacement)
        part.add(
            "whole steps",
            network=str(problem.network),
            states=problem.states,
            candidates=f"{ours.backtracks + 1} and {theirs.backtracks + 1}",
            outcome=f"{ours.rejection or 'accepted'}, {theirs.rejection or 'accepted'}",
            **{
                "eager ms": 1e3 * eager_seconds,
                "captured ms": 1e3 * captured_seconds,
                "times faster": eager_seconds / captured_seconds,
                "error": error,
                "error of the KL": abs(ours.kl - theirs.kl) / max(theirs.kl, 1e-12),
            },
        )
        if not error <= MOST_ERROR and theirs.accepted:
            part.fail(f"step at {target_kl:g} nats: captured and eager steps differ by {error:.2g}")
    if steps.failure is not None:
        part.fail(f"step: {steps.failure}")
