"""How fast is training end to end, beside sb3-contrib's TRPO and tianshou's?

    python benchmarks/training.py                                  # Hopper-v5, 20 480 steps a turn
    python benchmarks/training.py --steps 40960 --rounds 7 --out training.json

A turn is one `learn()` of a fresh agent, its construction and that of its environments not timed; contestants
take turns, see contestants.py. Ours and sb3-contrib's collect 2048 steps between updates, all environments
together, and make 15 CG iterations; all else is at their defaults. tianshou's has the settings of its MuJoCo
benchmark, 1024 steps and 10 CG iterations, and is tried with 2048 too. Everybody is tried with torch's
default threads and with one, and ratios are against a peer's fastest set-up in the same run. The floor is
MuJoCo's physics alone, in one process a core.
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
from measurement import Claim, Ratio, report
from physics import hopper_physics
from setups import Setup, sb3_agent
from standings import Standings, installed, speeds
from tianshou_trpo import tianshou_trpo, train

from experiments.settings.provenance import hardware

FLOOR = "physics alone"
OVER_DEFAULTS, OVER_BEST, OF_FLOOR = 5.0, 3.0, 0.35


@dataclass(frozen=True)
class Arguments:
    """Time training."""

    env: str = "Hopper-v5"
    steps: int = 20_480
    """Of one training."""
    rounds: int = 5
    rollout: int = 2048
    """Steps between updates, all environments together."""
    threads: tuple[int, ...] = (0, 1)
    """Threads of torch that everybody is tried with; 0 is torch's default."""
    dummy: tuple[int, ...] = (1, 8, 16, 32, 64)
    """Numbers of environments of sb3-contrib's; 1 is its default."""
    ours: tuple[int, ...] = (32, 64)
    """Numbers of environments of ours."""
    ours_kinds: tuple[str, ...] = ("workers", "envpool")
    """How ours steps them."""
    ours_settings: tuple[str, ...] = ("critic_fit=lbfgs",)
    """Variants of ours, each as name=value,name=value; "" is the defaults."""
    tianshou: tuple[int, ...] = (16,)
    """Numbers of environments of tianshou's."""
    tianshou_kinds: tuple[str, ...] = ("dummy", "envpool")
    tianshou_rollouts: tuple[int, ...] = (1024, 2048)
    out: Path | None = None
    """Where the numbers go as JSON."""


@contextmanager
def sb3_training(task: tuple[Setup, int]) -> Iterator[Turn]:
    """Train an agent of ours or of sb3-contrib."""
    setup, steps = task

    def turn() -> dict[str, float]:
        with sb3_agent(setup, cg_max_steps=15) as agent:
            start = time.perf_counter()
            agent.learn(steps)
            seconds = time.perf_counter() - start
            returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
            found = {"steps_per_s": agent.num_timesteps / seconds}
            return {**found, "return": sum(returns) / len(returns)} if returns else found

    yield turn


@contextmanager
def tianshou_training(task: tuple[Setup, int]) -> Iterator[Turn]:
    """Train tianshou's agent."""
    setup, steps = task

    def turn() -> dict[str, float]:
        with tianshou_trpo(setup) as (algorithm, collector):
            start = time.perf_counter()
            train(algorithm, collector, steps, setup.rollout)
            return {"steps_per_s": collector.collect_step / (time.perf_counter() - start)}

    yield turn


def setups(arguments: Arguments) -> list[Setup]:
    """Return everybody, installed or not."""
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
        Setup(library, kind, n, threads, arguments.env, rollout, settings)
        for library, kind, n, rollout, settings in kinds
        for threads in arguments.threads
    ]


def claims_of(standings: Standings, floor: list[float] | None) -> list[Claim]:
    """Return how our fastest set-up compares with everybody's fastest, and with the floor."""
    ours = standings.fastest("ours")
    if ours is None:
        return []
    peers = [
        (standings.fastest("sb3-contrib", n_envs=1), OVER_DEFAULTS),
        (standings.fastest("sb3-contrib"), OVER_BEST),
        (standings.fastest("tianshou"), OVER_BEST),
    ]
    claims = [
        Claim(f"training, {ours} over {peer}", standings.ratio(ours, peer).of_medians, bound)
        for peer, bound in peers
        if peer is not None
    ]
    if floor is not None:
        share = Ratio.between(standings.speeds[ours], floor).of_medians
        claims.append(Claim(f"training, {ours} as a share of the physics alone", share, OF_FLOOR, ""))
    return claims


def main(arguments: Arguments) -> None:
    """Time, and print the table."""
    taking_part = installed(setups(arguments))
    contestants: dict[str, tuple[Maker, Any, int]] = {
        str(setup): (
            tianshou_training if setup.library == "tianshou" else sb3_training,
            (setup, arguments.steps),
            setup.threads,
        )
        for setup in taking_part
    }
    if arguments.env == "Hopper-v5":
        contestants[FLOOR] = (hopper_physics, (hardware()["cores"], 1.0), 0)
    results, _ = interleave(contestants, arguments.rounds)
    standings = Standings(taking_part, results)
    rows = []
    for name, turns in results.items():
        row = standings.row(name, speeds(turns))
        returns = [turn["return"] for turn in turns if "return" in turn]
        rows.append({**row, "return": median(returns) if returns else None})
    floor = speeds(results[FLOOR]) if FLOOR in results else None
    heading = f"Training, {arguments.env}, {arguments.steps} steps"
    report("training", arguments, {heading: rows}, claims_of(standings, floor))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
