"""Measure cost and error of the Fisher operators, and how well they precondition.

    python benchmarks/geometry_figures.py                       # train a policy
    python benchmarks/fisher_operators.py runs/geometry         # measure on 2048 of its states

Times are the lowest of five. The gap is ‖A - F‖ / ‖F‖ (Frobenius norm, 64 probes). Iterations are those of
conjugate gradient for (F + 0.01 I) x = g, to a relative residual of 1e-2, preconditioned by (A + 0.01 I)⁻¹;
benchmarks/preconditioning.py measures these for several seeds and stages of training. Then Lanczos is
compared with dense eigenvalues.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import npg
from agents import TRPO
from agents.rollout.batch import standardise
from envs import make_vec_env
from experiments.geometry import read

DAMPING = 0.01


def min_milliseconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Return the shortest time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main(folder: Path) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    agent = TRPO.load(folder / "model.zip", make_vec_env("Hopper-v5", 16, seed=1), device="cpu", n_steps=128)
    _, callback = agent._setup_learn(1)
    buffer = agent.rollout_buffer
    for _ in range(5):  # until the environments are at different steps of their episodes
        agent.collect_rollouts(agent.env, callback, buffer, agent.n_steps)
    states, actions, log_prob = read(buffer, agent.action_space, 2048)
    advantages = standardise(torch.as_tensor(buffer.advantages.T.flatten()))
    actor = agent.actor
    objective = npg.SurrogateObjective(actor, states, actions, advantages, old_log_prob=log_prob)
    gradient, exact = objective.gradient(), npg.ExactFisher(actor, states)
    source = torch.Generator().manual_seed(0)
    operators: dict[str, Callable[[], npg.LinearOperator]] = {
        "ExactFisher": lambda: npg.ExactFisher(actor, states),
        "  micro_batch_size=256": lambda: npg.ExactFisher(actor, states, micro_batch_size=256),
        "  256 of the states": lambda: npg.ExactFisher(actor, states[::8]),
        "KLHessian": lambda: npg.KLHessian(actor, states),
        "FiniteDifferenceFisher": lambda: npg.FiniteDifferenceFisher(actor, states),
        "SampledFisher": lambda: npg.SampledFisher(actor, states, generator=source),
        "EmpiricalFisher": lambda: npg.EmpiricalFisher(actor, states, actions),
        "DiagonalFisher": lambda: npg.DiagonalFisher(actor, states),
        "BlockDiagonalFisher": lambda: npg.BlockDiagonalFisher(actor, states),
        "KroneckerFisher": lambda: npg.KroneckerFisher(actor, states),
        "  samples=1": lambda: npg.KroneckerFisher(actor, states, samples=1, generator=source),
        "EigenvalueCorrectedFisher": lambda: npg.EigenvalueCorrectedFisher(actor, states),
        "ShrunkFisher": lambda: npg.ShrunkFisher(actor, states),
    }
    system = npg.Damped(exact, DAMPING)
    plain = npg.conjugate_gradient(system, gradient, max_iterations=1000, tolerance=1e-2)
    print(f"{exact.size} parameters, {len(states)} states; plain CG: {plain.iterations} iterations")
    print(f"{'':26} build ms  product ms   gap  solve ms  CG iterations")
    for name, build in operators.items():
        operator = build()
        gap = npg.relative_gap(operator, exact, probes=64).value
        product = min_milliseconds(lambda: operator @ gradient)  # noqa: B023
        line = f"{name:26} {min_milliseconds(build):8.1f} {product:11.2f} {gap:6.2g}"
        if isinstance(operator, npg.InvertibleOperator):
            invert = min_milliseconds(lambda: operator.inverse(DAMPING), 2)  # noqa: B023
            solution = npg.conjugate_gradient(
                system,
                gradient,
                max_iterations=1000,
                tolerance=1e-2,
                preconditioner=operator.inverse(DAMPING),
            )
            line += f" {invert:9.1f} {solution.iterations:8d}"
        print(line)

    start = time.perf_counter()
    values = torch.linalg.eigvalsh(exact.to_dense().double()).clamp(min=0)
    dimensions = [round(float((values / (values + damping)).sum()), 1) for damping in (0.01, 0.1, 1.0)]
    print(f"dense: effective dimensions {dimensions}, {time.perf_counter() - start:.1f} s")
    for steps, probes in ((20, 4), (100, 8)):
        start = time.perf_counter()
        found = npg.spectrum(exact, steps=steps, probes=probes)
        seconds = time.perf_counter() - start
        estimates = [found.effective_dimension(damping) for damping in (0.01, 0.1, 1.0)]
        shown = ", ".join(f"{e.value:.1f} ± {e.standard_error:.1f}" for e in estimates)
        print(f"Lanczos, {steps} steps, {probes} probes: {shown}, {seconds:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
