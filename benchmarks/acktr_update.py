"""Compare the time of an update of ACKTR with that of A2C.

    python benchmarks/acktr_update.py                 # Hopper-v5, batches of 40 to 2048 states

Both agents have the same network and a rollout of the same size. Their `train()` is timed alternately, 40
updates at a time, so that noise of the machine affects both, and updates that refresh factors and inverses
are included in proportion. The ratio is the median over these pairs. ACKTR has its default settings; --set
changes them.
"""

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
import yaml
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import ACKTR
from envs import make_vec_env
from experiments.settings.provenance import versions

UPDATES = 40  # a multiple of the refresh intervals


@dataclass(frozen=True)
class Arguments:
    """Time updates."""

    env: str = "Hopper-v5"
    policy: str = "MlpPolicy"
    n_envs: int = 8
    n_steps: tuple[int, ...] = (5, 16, 64, 256)
    """Steps per environment and update; a batch has n_envs times as many states."""
    pairs: int = 7
    threads: int = 1
    device: str = "cpu"
    set: tuple[str, ...] = ()
    """ACKTR's settings, as name=value."""
    out: Path | None = None
    """Write the numbers into this JSON file."""


def make_agent_with_rollout(
    agent_class: type[OnPolicyAlgorithm], arguments: Arguments, n_steps: int, **kwargs: Any
) -> Any:
    """Make an agent and fill its rollout buffer."""
    env = make_vec_env(arguments.env, arguments.n_envs, seed=0)
    agent = agent_class(arguments.policy, env, n_steps=n_steps, seed=0, device=arguments.device, **kwargs)
    _, callback = agent._setup_learn(1)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, n_steps)
    return agent


def seconds_per_update(agent: OnPolicyAlgorithm) -> float:
    """Return the mean seconds of an update."""
    start = time.perf_counter()
    for _ in range(UPDATES):
        agent.train()
    if agent.device.type == "cuda":
        torch.cuda.synchronize(agent.device)
    return (time.perf_counter() - start) / UPDATES


def main(arguments: Arguments) -> None:
    """Time, and print a table."""
    torch.set_num_threads(arguments.threads)
    settings = {name: yaml.safe_load(value) for name, _, value in (s.partition("=") for s in arguments.set)}
    rows = []
    print(f"{'states':>7} {'A2C ms':>8} {'ACKTR ms':>9} {'ratio':>6}")
    for n_steps in arguments.n_steps:
        a2c, acktr = (
            make_agent_with_rollout(A2C, arguments, n_steps),
            make_agent_with_rollout(ACKTR, arguments, n_steps, **settings),
        )
        seconds_per_update(a2c), seconds_per_update(acktr)  # the first calls allocate memory
        times = [(seconds_per_update(a2c), seconds_per_update(acktr)) for _ in range(arguments.pairs)]
        row = {
            "states": n_steps * arguments.n_envs,
            "a2c_ms": 1e3 * median(a for a, _ in times),
            "acktr_ms": 1e3 * median(b for _, b in times),
            "ratio": median(b / a for a, b in times),
        }
        rows.append(row)
        print(
            f"{row['states']:7} {row['a2c_ms']:8.2f} {row['acktr_ms']:9.2f} {row['ratio']:6.2f}", flush=True
        )
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
