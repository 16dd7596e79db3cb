"""How fast are rollouts collected, beside SB3 and tianshou?

    python benchmarks/rollout.py                                # Hopper-v5 and CartPole-v1
    python benchmarks/rollout.py --env Hopper-v5 --rounds 9 --out rollout.json

Every contestant collects 2048 steps with an untrained 64-64 tanh policy, by its library's own method: SB3's
`collect_rollouts`, through sb3-contrib's TRPO, and ours leave a buffer with values, log-probabilities and
advantages; tianshou's `Collector` leaves transitions only, and computes the rest in its update. Contestants
take turns, see contestants.py; a turn is `--rollouts` rollouts. Ratios are against the fastest set-up of the
peer in the same run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from contestants import Maker, Turn, interleave
from measurement import Claim, report
from setups import Setup, sb3_agent
from standings import Standings, installed
from tianshou_trpo import tianshou_trpo

USUAL = 32  # environments: a rollout of 2048 steps then still has 64 of each
# environment -> what our collection has to reach, in multiples of SB3's best: of all, and of the usual
CLAIMS = {"Hopper-v5": {"workers": 2.0, "envpool": 2.5}, "CartPole-v1": {"envpool": 4.0}}


@dataclass(frozen=True)
class Arguments:
    """Time rollouts."""

    env: tuple[str, ...] = ("Hopper-v5", "CartPole-v1")
    rounds: int = 5
    rollouts: int = 4
    """Rollouts in a turn."""
    steps: int = 2048
    """Steps of a rollout, all environments together."""
    threads: tuple[int, ...] = (0, 1)
    """Threads of torch that everybody is tried with; 0 is torch's default."""
    dummy: tuple[int, ...] = (8, 16, 32, 128, 256)
    """Numbers of environments of SB3's DummyVecEnv."""
    subproc: tuple[int, ...] = (2, 8)
    """Numbers of environments of SB3's SubprocVecEnv."""
    ours: tuple[int, ...] = (32, 64, 128, 256)
    """Numbers of environments of ours."""
    tianshou: tuple[int, ...] = (16, 32)
    """Numbers of environments of tianshou's."""
    out: Path | None = None
    """Where the numbers go as JSON."""


@contextmanager
def sb3_rollouts(task: tuple[Setup, int]) -> Iterator[Turn]:
    """Collect with an agent of ours or of sb3-contrib."""
    setup, rollouts = task
    with sb3_agent(setup) as agent:
        _, callback = agent._setup_learn(1)

        def turn() -> dict[str, float]:
            start = time.perf_counter()
            for _ in range(rollouts):
                agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
            steps = rollouts * agent.n_steps * agent.n_envs
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield turn


@contextmanager
def tianshou_rollouts(task: tuple[Setup, int]) -> Iterator[Turn]:
    """Collect with tianshou's collector."""
    setup, rollouts = task
    with tianshou_trpo(setup) as (_, collector):

        def turn() -> dict[str, float]:
            start, steps = time.perf_counter(), 0
            for _ in range(rollouts):
                steps += collector.collect(n_step=setup.rollout).n_collected_steps
                collector.reset_buffer(keep_statistics=True)
            return {"steps_per_s": steps / (time.perf_counter() - start)}

        yield turn


def setups(arguments: Arguments, env: str) -> list[Setup]:
    """Return everybody, installed or not."""
    kinds = [
        *(("sb3-contrib", "dummy", n) for n in arguments.dummy),
        *(("sb3-contrib", "subproc", n) for n in arguments.subproc),
        *(("tianshou", kind, n) for kind in ("dummy", "envpool") for n in arguments.tianshou),
        *(("ours", kind, n) for kind in ("dummy", "workers", "envpool") for n in arguments.ours),
    ]
    return [
        Setup(library, kind, n, threads, env, arguments.steps)
        for library, kind, n in kinds
        for threads in arguments.threads
    ]


def measure(arguments: Arguments, env: str) -> tuple[list[dict[str, Any]], list[Claim]]:
    """Return the table of one environment and its claims."""
    taking_part = installed(setups(arguments, env))
    contestants: dict[str, tuple[Maker, Any, int]] = {
        str(setup): (
            tianshou_rollouts if setup.library == "tianshou" else sb3_rollouts,
            (setup, arguments.rollouts),
            setup.threads,
        )
        for setup in taking_part
    }
    results, _ = interleave(contestants, arguments.rounds)
    standings = Standings(taking_part, results)
    rows = [standings.row(str(setup), series) for setup, series in standings.speeds.items()]
    claims = []
    for kind, bound in CLAIMS.get(env, {}).items():
        ours = standings.fastest("ours", kind)
        for peer in (standings.fastest("sb3-contrib"), standings.fastest("sb3-contrib", at_most=USUAL)):
            if ours is not None and peer is not None:
                ratio = standings.ratio(ours, peer)
                claims.append(Claim(f"collection, {env}, {ours} over {peer}", ratio.of_medians, bound))
    return rows, claims


def main(arguments: Arguments) -> None:
    """Time, and print the tables."""
    sections, claims = {}, []
    for env in arguments.env:
        rows, found = measure(arguments, env)
        sections[f"Collection, {env}, {arguments.steps} steps a rollout"] = rows
        claims += found
    report("rollout", arguments, sections, claims)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
