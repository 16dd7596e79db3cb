"""Compare the speed of collecting rollouts with SB3's and tianshou's.

    python benchmarks/rollout.py                                # Hopper-v5 and CartPole-v1
    python benchmarks/rollout.py --env Hopper-v5 --rounds 9 --out rollout.json

Every configuration collects 2048 steps with an untrained 64-64 tanh policy, by its library's own method.
SB3's `collect_rollouts`, called through sb3-contrib's TRPO, and ours fill a buffer with values,
log-probabilities and advantages. tianshou's `Collector` stores only transitions; its update computes the
rest. Rounds are interleaved (see interleaved.py); a measurement is `--rollouts` rollouts. Ratios are relative
to the fastest configuration of the other library in the same run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from configurations import Configuration, sb3_agent
from interleaved import Measure, MeasureFactory, interleave
from measurement import Goal, report
from speed_comparison import SpeedComparison, only_installed
from tianshou_trpo import tianshou_trpo

USUAL_MOST_ENVS = 32  # so that a rollout of 2048 steps has at least 64 steps per environment
# {environment: goals for our speed over SB3's best, of all configurations and of those up to USUAL_MOST_ENVS}
GOALS = {"Hopper-v5": {"workers": 2.0, "envpool": 2.5}, "CartPole-v1": {"envpool": 4.0}}


@dataclass(frozen=True)
class Arguments:
    """Time rollouts."""

    env: tuple[str, ...] = ("Hopper-v5", "CartPole-v1")
    rounds: int = 5
    rollouts: int = 4
    """Rollouts per measurement."""
    steps: int = 2048
    """Steps per rollout, over all environments."""
    threads: tuple[int, ...] = (0, 1)
    """Numbers of torch's threads to try with each configuration; 0 is torch's default."""
    dummy: tuple[int, ...] = (8, 16, 32, 128, 256)
    """Numbers of environments to try with SB3's DummyVecEnv."""
    subproc: tuple[int, ...] = (2, 8)
    """Numbers of environments to try with SB3's SubprocVecEnv."""
    ours: tuple[int, ...] = (32, 64, 128, 256)
    """Numbers of environments to try with ours."""
    tianshou: tuple[int, ...] = (16, 32)
    """Numbers of environments to try with tianshou's."""
    out: Path | None = None
    """Write the numbers into this JSON file."""


@contextmanager
def sb3_rollouts(task: tuple[Configuration, int]) -> Iterator[Measure]:
    """Collect with an agent of ours or of sb3-contrib."""
    configuration, rollouts = task
    with sb3_agent(configuration) as agent:
        _, callback = agent._setup_learn(1)

        def measure_once() -> dict[str, float]:
            start = time.perf_counter()
            for _ in range(rollouts):
                agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
            steps = rollouts * agent.n_steps * agent.n_envs
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield measure_once


@contextmanager
def tianshou_rollouts(task: tuple[Configuration, int]) -> Iterator[Measure]:
    """Collect with tianshou's collector."""
    configuration, rollouts = task
    with tianshou_trpo(configuration) as (_, collector):

        def measure_once() -> dict[str, float]:
            start, steps = time.perf_counter(), 0
            for _ in range(rollouts):
                steps += collector.collect(n_step=configuration.rollout).n_collected_steps
                collector.reset_buffer(keep_statistics=True)
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield measure_once


def configurations(arguments: Arguments, env: str) -> list[Configuration]:
    """Return all configurations, installed or not."""
    kinds = [
        *(("sb3-contrib", "dummy", n) for n in arguments.dummy),
        *(("sb3-contrib", "subproc", n) for n in arguments.subproc),
        *(("tianshou", kind, n) for kind in ("dummy", "envpool") for n in arguments.tianshou),
        *(("ours", kind, n) for kind in ("dummy", "workers", "envpool") for n in arguments.ours),
    ]
    return [
        Configuration(library, kind, n, threads, env, arguments.steps)
        for library, kind, n in kinds
        for threads in arguments.threads
    ]


def measure(arguments: Arguments, env: str) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Return the table of one environment and its goals."""
    available = only_installed(configurations(arguments, env))
    measurements: dict[str, tuple[MeasureFactory, Any, int]] = {
        str(configuration): (
            tianshou_rollouts if configuration.library == "tianshou" else sb3_rollouts,
            (configuration, arguments.rollouts),
            configuration.threads,
        )
        for configuration in available
    }
    results, _ = interleave(measurements, arguments.rounds)
    comparison = SpeedComparison(available, results)
    rows = [comparison.row(str(configuration), series) for configuration, series in comparison.speeds.items()]
    goals = []
    for kind, bound in GOALS.get(env, {}).items():
        ours = comparison.fastest("ours", kind)
        for peer in (
            comparison.fastest("sb3-contrib"),
            comparison.fastest("sb3-contrib", at_most=USUAL_MOST_ENVS),
        ):
            if ours is not None and peer is not None:
                ratio = comparison.ratio(ours, peer)
                goals.append(Goal(f"collection, {env}, {ours} over {peer}", ratio.of_medians, bound))
    return rows, goals


def main(arguments: Arguments) -> None:
    """Time, and print the tables."""
    sections, goals = {}, []
    for env in arguments.env:
        rows, found = measure(arguments, env)
        sections[f"Collection, {env}, {arguments.steps} steps per rollout"] = rows
        goals += found
    report("rollout", arguments, sections, goals)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
