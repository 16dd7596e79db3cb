"""Is our collection of rollouts worth its code? Ours against SB3's `collect_rollouts`, all else equal.

    python benchmarks/collection.py
    python benchmarks/collection.py --env Hopper-v5 --rounds 9 --out collection.json

Both sides are the same TRPO agent, policy and vector environment of ours, with one torch thread; only the
method that fills the rollout buffer differs. They take turns, see contestants.py. A ratio is that of the
medians, with the lowest and highest ratio of a round.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from contestants import Maker, Turn, interleave
from measurement import Ratio, report
from setups import Setup, sb3_agent
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from standings import speeds

WORTH = 1.15  # below this in every case, the code should go


@dataclass(frozen=True)
class Arguments:
    """Time rollouts."""

    env: tuple[str, ...] = ("CartPole-v1", "Hopper-v5")
    vec_env: tuple[str, ...] = ("dummy", "workers", "envpool")
    n_envs: tuple[int, ...] = (8, 16, 32, 64)
    rounds: int = 5
    rollouts: int = 2
    """Rollouts in a turn."""
    steps: int = 2048
    """Steps of a rollout, all environments together."""
    out: Path | None = None
    """Where the numbers go as JSON."""


@contextmanager
def collection(task: tuple[Setup, int, bool]) -> Iterator[Turn]:
    """Fill rollout buffers, by our method or by SB3's."""
    setup, rollouts, ours = task
    with sb3_agent(setup) as agent:
        method = type(agent).collect_rollouts if ours else OnPolicyAlgorithm.collect_rollouts
        _, callback = agent._setup_learn(1)

        def turn() -> dict[str, float]:
            start = time.perf_counter()
            for _ in range(rollouts):
                method(agent, agent.env, callback, agent.rollout_buffer, agent.n_steps)
            steps = rollouts * agent.n_steps * agent.n_envs
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield turn


def measure(arguments: Arguments, env: str, vec_env: str) -> list[dict[str, Any]]:
    """Return the rows of one kind of vector environment."""
    contestants: dict[str, tuple[Maker, Any, int]] = {}
    for n in arguments.n_envs:
        setup = Setup("ours", vec_env, n, 1, env, arguments.steps)
        for ours in (True, False):
            contestants[f"{n} {ours}"] = (collection, (setup, arguments.rollouts, ours), 1)
    results, _ = interleave(contestants, arguments.rounds)
    rows = []
    for n in arguments.n_envs:
        ours, theirs = (speeds(results[f"{n} {side}"]) for side in (True, False))
        rows.append(
            {
                "environments": f"{vec_env} {n}",
                "ours, steps/s": median(ours),
                "SB3's method, steps/s": median(theirs),
                "ratio": str(Ratio.between(ours, theirs)),
                f"≥ {WORTH}": Ratio.between(ours, theirs).of_medians >= WORTH,
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
