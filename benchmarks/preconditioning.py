"""Count iterations of preconditioned conjugate gradient on partly trained policies.

    python benchmarks/preconditioning.py         # Hopper-v5: 3 seeds at 30 000, 100 000 and 300 000 steps

TRPO is trained with its shipped settings. At every stage the policy collects new states, and (F + λI) x = g
is solved for the exact Fisher matrix F and the policy gradient g of those states, in float32 and float64.
Training then continues from these environments. The counts are products with F; the seconds are those of one
thread, without collecting. No preconditioner is tuned: all have their defaults and the damping of the system.
"few" is `ShrunkFisher` with ρ → 0, i.e. only its sub-sampled part.
"""

import copy
import itertools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor, nn

from agents import TRPO
from agents.rollout.batch import Batch, standardise
from envs import make_vec_env
from experiments.settings.arguments import Arguments as Train
from experiments.settings.configuration import resolve
from experiments.settings.provenance import versions
from npg import (
    BlockDiagonalFisher,
    Damped,
    DiagGaussian,
    DiagonalFisher,
    EigenvalueCorrectedFisher,
    ExactFisher,
    InvertibleOperator,
    KroneckerFisher,
    ShrunkFisher,
    Status,
    SurrogateObjective,
    conjugate_gradient,
)

PRECONDITIONERS: dict[str, Callable[..., InvertibleOperator] | None] = {
    "none": None,
    "diagonal": DiagonalFisher,
    "block": BlockDiagonalFisher,
    "kfac": KroneckerFisher,
    "ekfac": EigenvalueCorrectedFisher,
    "few": partial(ShrunkFisher, shrinkage=1e-10),
    "shrunk": ShrunkFisher,
}


@dataclass(frozen=True)
class Arguments:
    """Count iterations of conjugate gradient."""

    env: str = "Hopper-v5"
    """An environment with continuous actions."""
    seeds: tuple[int, ...] = (3, 4, 5)
    steps: tuple[int, ...] = (30_000, 100_000, 300_000)
    states: int = 2048
    damping: float = 1e-2
    tolerance: float = 1e-2
    out: Path | None = None
    """Write the numbers into this JSON file."""


class Network(nn.Module):
    """A copy of the actor network and log standard deviation of an SB3 policy, which can have any dtype."""

    def __init__(self, policy: Any):
        super().__init__()
        self.log_std = nn.Parameter(policy.log_std.detach().clone())
        self.layers = copy.deepcopy(nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net))

    def forward(self, features: Tensor) -> DiagGaussian:
        """Return the policy at normalised observations."""
        return DiagGaussian(self.layers(features), self.log_std)


def collect(agent: TRPO, env: Any, states: int) -> Batch:
    """Collect new states with the agent's policy."""
    spaces = env.observation_space, env.action_space
    buffer = RolloutBuffer(
        states // env.num_envs, *spaces, "cpu", agent.gae_lambda, agent.gamma, env.num_envs
    )
    _, callback = agent._setup_learn(0, reset_num_timesteps=False)
    agent.collect_rollouts(env, callback, buffer, buffer.buffer_size)
    return Batch.from_buffer(buffer, env.action_space)


def measure(policy: Any, batch: Batch, dtype: torch.dtype, arguments: Arguments) -> dict[str, Any]:
    """Return {preconditioner: iterations, seconds to build it, seconds to solve}."""
    actor = Network(policy).to(dtype)
    features = policy._normalised(batch.observations).to(dtype)
    advantages = standardise(batch.advantages).to(dtype)
    gradient = SurrogateObjective(actor, features, batch.actions.to(dtype), advantages).gradient()
    operator = Damped(ExactFisher(actor, features), arguments.damping)
    operator @ gradient  # the first product allocates memory
    found = {}
    for name, make in PRECONDITIONERS.items():
        start = time.perf_counter()
        inverse = None if make is None else make(actor, features).inverse(arguments.damping)
        made = time.perf_counter()
        solution = conjugate_gradient(
            operator, gradient, max_iterations=5000, tolerance=arguments.tolerance, preconditioner=inverse
        )
        seconds = time.perf_counter() - made
        if solution.status is not Status.CONVERGED:
            raise RuntimeError(f"{name}: {solution.status} at a residual of {solution.residual:.2g}")
        found[name] = {"iterations": solution.iterations, "build_s": made - start, "solve_s": seconds}
    return found


def main(arguments: Arguments) -> None:
    """Train, count iterations, and print a table."""
    torch.set_num_threads(1)
    configuration = resolve(Train(env=(arguments.env,)))
    rows: list[dict[str, Any]] = []
    print(
        f"{'seed':>4} {'steps':>8} {'return':>7} {'dtype':>8}" + "".join(f"{n:>9}" for n in PRECONDITIONERS)
    )
    for seed in arguments.seeds:
        env = make_vec_env(arguments.env, configuration.n_envs, seed=seed)
        agent = TRPO(configuration.policy, env, seed=seed, device="cpu", **configuration.hyperparameters)
        for steps in arguments.steps:
            agent.learn(steps - agent.num_timesteps, log_interval=None, reset_num_timesteps=False)
            batch = collect(agent, env, arguments.states)
            mean_return = float(np.mean([episode["r"] for episode in agent.ep_info_buffer or ()]))
            for dtype in (torch.float32, torch.float64):
                found = measure(agent.policy, batch, dtype, arguments)
                kind = str(dtype).removeprefix("torch.")
                rows.append({"seed": seed, "steps": steps, "return": mean_return, "dtype": kind, **found})
                counts = "".join(f"{found[name]['iterations']:9}" for name in PRECONDITIONERS)
                print(f"{seed:4} {steps:8} {mean_return:7.0f} {kind:>8}{counts}", flush=True)
        env.close()
    print("\nmedians and worst of all stages; ratio: iterations over those without a preconditioner")
    print(f"{'':>8} {'':>9} {'ratio':>6} {'worst':>6} {'build ms':>9} {'solve ms':>9}")
    for kind, name in itertools.product(("float32", "float64"), PRECONDITIONERS):
        of_kind = [row for row in rows if row["dtype"] == kind]
        ratios = [row[name]["iterations"] / row["none"]["iterations"] for row in of_kind]
        build, solve = (1e3 * median(row[name][key] for row in of_kind) for key in ("build_s", "solve_s"))
        print(f"{kind:>8} {name:>9} {median(ratios):6.2f} {max(ratios):6.2f} {build:9.0f} {solve:9.0f}")
    if arguments.out is not None:
        document = {
            "arguments": str(arguments),
            "hardware": platform.processor() or platform.machine(),
            "versions": versions(),
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
