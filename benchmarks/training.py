"""Compare the speed of training with sb3-contrib's TRPO and tianshou's.

    python benchmarks/training.py                                  # Hopper-v5, 20 480 steps
    python benchmarks/training.py --steps 40960 --rounds 7 --out training.json

A measurement is one `learn()` of a new agent, without the construction of the agent and its environments.
Rounds are interleaved (see interleaved.py). Ours and sb3-contrib's collect 2048 steps between updates, over
all environments, and make 15 CG iterations; all other settings have their defaults. tianshou's has the
settings of its MuJoCo benchmark, 1024 steps and 10 CG iterations, and is tried with 2048 steps too. Every
configuration is tried with torch's default number of threads and with one thread. Ratios are relative to the
other library's fastest configuration in the same run. "physics alone" is MuJoCo's physics in one process per
core.
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
from measurement import Goal, Ratio, report
from physics import hopper_physics
from speed_comparison import SpeedComparison, only_installed, steps_per_second
from tianshou_trpo import tianshou_trpo, train

from experiments.settings.provenance import hardware

PHYSICS = "physics alone"
# Goals for our speed: over sb3-contrib's defaults, over another library's best, as a fraction of the physics.
GOAL_OVER_DEFAULTS, GOAL_OVER_BEST, GOAL_OF_PHYSICS = 5.0, 3.0, 0.35


@dataclass(frozen=True)
class Arguments:
    """Time training."""

    env: str = "Hopper-v5"
    steps: int = 20_480
    """Training steps per measurement."""
    rounds: int = 5
    rollout: int = 2048
    """Steps between updates, over all environments."""
    threads: tuple[int, ...] = (0, 1)
    """Numbers of torch's threads to try with each configuration; 0 is torch's default."""
    dummy: tuple[int, ...] = (1, 8, 16, 32, 64)
    """Numbers of environments to try with sb3-contrib's; 1 is its default."""
    ours: tuple[int, ...] = (32, 64)
    """Numbers of environments to try with ours."""
    ours_kinds: tuple[str, ...] = ("workers", "envpool")
    """Kinds of vector environments to try with ours."""
    ours_settings: tuple[str, ...] = ("critic_fit=lbfgs",)
    """Variants of ours, each as name=value,name=value; "" has the default settings."""
    tianshou: tuple[int, ...] = (16,)
    """Numbers of environments to try with tianshou's."""
    tianshou_kinds: tuple[str, ...] = ("dummy", "envpool")
    tianshou_rollouts: tuple[int, ...] = (1024, 2048)
    out: Path | None = None
    """Write the numbers into this JSON file."""


@contextmanager
def sb3_training(task: tuple[Configuration, int]) -> Iterator[Measure]:
    """Train an agent of ours or of sb3-contrib."""
    configuration, steps = task

    def measure_once() -> dict[str, float]:
        with sb3_agent(configuration, cg_max_steps=15) as agent:
            start = time.perf_counter()
            agent.learn(steps)
            seconds = time.perf_counter() - start
            returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
            found = {"steps_per_s": agent.num_timesteps / seconds}
            return {**found, "return": sum(returns) / len(returns)} if returns else found

    yield measure_once


@contextmanager
def tianshou_training(task: tuple[Configuration, int]) -> Iterator[Measure]:
    """Train tianshou's agent."""
    configuration, steps = task

    def measure_once() -> dict[str, float]:
        with tianshou_trpo(configuration) as (algorithm, collector):
            start = time.perf_counter()
            train(algorithm, collector, steps, configuration.rollout)
            return {"steps_per_s": collector.collect_step / (time.perf_counter() - start)}

    yield measure_once


def configurations(arguments: Arguments) -> list[Configuration]:
    """Return all configurations, installed or not."""
    kinds = [
        *(("sb3-contrib", "dummy", n, arguments.rollout, "") for n in arguments.dummy),
        *(
            ("tianshou", kind, n, rollout, "")
            for kind in arguments.tianshou_kinds
            for n in arguments.tianshou
            for rollout in arguments.tianshou_rollouts
        ),
        *(
            ("ours", kind, n, arguments.rollout, settings)
            for kind in arguments.ours_kinds
            for n in arguments.ours
            for settings in arguments.ours_settings
        ),
    ]
    return [
        Configuration(library, kind, n, threads, arguments.env, rollout, settings)
        for library, kind, n, rollout, settings in kinds
        for threads in arguments.threads
    ]


def goals_of(comparison: SpeedComparison, physics: list[float] | None) -> list[Goal]:
    """Return the goals of our fastest configuration, relative to other libraries and to the physics alone."""
    ours = comparison.fastest("ours")
    if ours is None:
        return []
    peers = [
        (comparison.fastest("sb3-contrib", n_envs=1), GOAL_OVER_DEFAULTS),
        (comparison.fastest("sb3-contrib"), GOAL_OVER_BEST),
        (comparison.fastest("tianshou"), GOAL_OVER_BEST),
    ]
    goals = [
        Goal(f"training, {ours} over {peer}", comparison.ratio(ours, peer).of_medians, bound)
        for peer, bound in peers
        if peer is not None
    ]
    if physics is not None:
        share = Ratio.between(comparison.speeds[ours], physics).of_medians
        goals.append(Goal(f"training, {ours} as a share of the physics alone", share, GOAL_OF_PHYSICS, ""))
    return goals


def main(arguments: Arguments) -> None:
    """Time, and print the table."""
    available = only_installed(configurations(arguments))
    measurements: dict[str, tuple[MeasureFactory, Any, int]] = {
        str(configuration): (
            tianshou_training if configuration.library == "tianshou" else sb3_training,
            (configuration, arguments.steps),
            configuration.threads,
        )
        for configuration in available
    }
    if arguments.env == "Hopper-v5":
        measurements[PHYSICS] = (hopper_physics, (hardware()["cores"], 1.0), 0)
    results, _ = interleave(measurements, arguments.rounds)
    comparison = SpeedComparison(available, results)
    rows = []
    for name, rounds in results.items():
        row = comparison.row(name, steps_per_second(rounds))
        returns = [result["return"] for result in rounds if "return" in result]
        rows.append({**row, "return": median(returns) if returns else None})
    physics = steps_per_second(results[PHYSICS]) if PHYSICS in results else None
    heading = f"Training, {arguments.env}, {arguments.steps} steps"
    report("training", arguments, {heading: rows}, goals_of(comparison, physics))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
