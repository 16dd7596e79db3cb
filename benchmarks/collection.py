"""Compare our collection of rollouts with SB3's `collect_rollouts`, all else equal.

    python benchmarks/collection.py
    python benchmarks/collection.py --env Hopper-v5 --rounds 9 --out collection.json

Both sides use our TRPO, policy and vector environment, with one torch thread; only the method that fills the
rollout buffer differs. Rounds are interleaved (see interleaved.py). A ratio is that of the medians; the
median of the rounds' ratios is in brackets.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from configurations import Configuration, sb3_agent
from interleaved import Measure, MeasureFactory, interleave
from measurement import Ratio, report
from speed_comparison import steps_per_second
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

MIN_RATIO = 1.15  # below this in every case, our method would be removed


@dataclass(frozen=True)
class Arguments:
    """Time rollouts."""

    env: tuple[str, ...] = ("CartPole-v1", "Hopper-v5")
    vec_env: tuple[str, ...] = ("dummy", "workers", "envpool")
    n_envs: tuple[int, ...] = (8, 16, 32, 64)
    rounds: int = 5
    rollouts: int = 2
    """Rollouts per measurement."""
    steps: int = 2048
    """Steps per rollout, over all environments."""
    out: Path | None = None
    """Write the numbers into this JSON file."""


@contextmanager
def collection(task: tuple[Configuration, int, bool]) -> Iterator[Measure]:
    """Fill rollout buffers, by our method or by SB3's."""
    configuration, rollouts, ours = task
    with sb3_agent(configuration) as agent:
        method = type(agent).collect_rollouts if ours else OnPolicyAlgorithm.collect_rollouts
        _, callback = agent._setup_learn(1)

        def measure_once() -> dict[str, float]:
            start = time.perf_counter()
            for _ in range(rollouts):
                method(agent, agent.env, callback, agent.rollout_buffer, agent.n_steps)
            steps = rollouts * agent.n_steps * agent.n_envs
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield measure_once


def measure(arguments: Arguments, env: str, vec_env: str) -> list[dict[str, Any]]:
    """Return the rows of one kind of vector environment."""
    configurations: dict[str, tuple[MeasureFactory, Any, int]] = {}
    for n in arguments.n_envs:
        configuration = Configuration("ours", vec_env, n, 1, env, arguments.steps)
        for ours in (True, False):
            configurations[f"{n} {ours}"] = (collection, (configuration, arguments.rollouts, ours), 1)
    results, _ = interleave(configurations, arguments.rounds)
    rows = []
    for n in arguments.n_envs:
        ours, theirs = (steps_per_second(results[f"{n} {side}"]) for side in (True, False))
        rows.append(
            {
                "environments": f"{vec_env} {n}",
                "ours, steps/s": median(ours),
                "SB3's method, steps/s": median(theirs),
                "ratio": str(Ratio.between(ours, theirs)),
                f"≥ {MIN_RATIO}": Ratio.between(ours, theirs).of_medians >= MIN_RATIO,
            }
        )
    return rows


def main(arguments: Arguments) -> None:
    """Time, and print the tables."""
    sections = {
        f"Collection, {env}, {arguments.steps} steps per rollout": [
            row for vec_env in arguments.vec_env for row in measure(arguments, env, vec_env)
        ]
        for env in arguments.env
    }
    report("collection", arguments, sections, [])


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
