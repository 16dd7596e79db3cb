"""Measure one and two ranks, count collectives, and model the time per update for up to 1024 ranks.

    python benchmarks/scaling.py                                    # 6 minutes on two cores
    python benchmarks/scaling.py --out scaling.json --figure docs/scaling.png
    python benchmarks/scaling.py --parts measure                    # 2 minutes; checks the goal
    sudo python benchmarks/scaling.py --parts delay                 # needs root: network namespaces

One and two ranks are started by torchrun and take turns. Each rank has one thread and a core of its own; one
rank uses one core, too, so it fits the critic after the policy step instead of beside it.

Parts: "measure" times weak scaling (the same steps per rank) and strong scaling (the same total); "model"
counts the collectives of an update, times computation on one rank, and computes from both the time per
update on W ranks (see scaling_model.py); "delay" checks this model on a link with an added delay between two
ranks (see delayed_link.py).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from delayed_link import DelayedLink
from measurement import Goal, Ratio, progress, report
from scaling_figure import draw
from scaling_group import RankGroup
from scaling_model import Collectives, Link, Update, fit, table
from scaling_worker import Task

GOAL = 0.85  # two ranks' steps per second, as a fraction of twice one rank's
STEPS = 32  # of each environment per update
SMALL = 4096  # bytes; a message of this size takes as long as one of a few bytes
BYTES = (8, SMALL, 65_536, 1_048_576)
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "VPG": ("vpg", {}),
    "NPG": ("npg", {}),
    "TRPO": ("trpo", {}),
    "TRPO, minibatches": ("trpo", {"critic_fit": "minibatch"}),
    "ACKTR": ("acktr", {}),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "NPG, sub_sampling_factor=4": ("npg", {"sub_sampling_factor": 4}),
    "NPG, cg_max_steps=5": ("npg", {"cg_max_steps": 5}),
    "TRPO, minibatches of 2048": ("trpo", {"critic_fit": "minibatch", "batch_size": 2048}),
    "ACKTR, intervals of 32": ("acktr", {"factor_interval": 32, "inverse_interval": 32}),
}


@dataclass(frozen=True)
class Arguments:
    """Measure and model scaling."""

    parts: tuple[str, ...] = ("measure", "model", "delay")
    env: str = "Hopper-v5"
    vec_env: str = "envpool"
    steps: int = 2048
    """Steps per rank and update."""
    rounds: int = 5
    updates: int = 4
    """Updates per measurement."""
    agents: tuple[str, ...] = tuple(AGENTS)
    widths: tuple[int, ...] = (64, 256, 1024)
    """Hidden units per layer in the model."""
    model_steps: tuple[int, int] = (256, 1024)
    """Steps per update with which computation is timed."""
    latencies: tuple[float, ...] = (10e-6, 50e-6, 500e-6)
    """Seconds."""
    strong: int = 65_536
    """Steps of all ranks per update in the model of strong scaling."""
    delays: tuple[float, ...] = (0.0, 1e-3, 5e-3)
    """Seconds of delay with which the model is checked."""
    variants: bool = True
    """Whether to model, at the first width, settings that help."""
    out: Path | None = None
    """Write the numbers into this JSON file."""
    figure: Path | None = None
    """Write a figure of the model."""

    def task(self, agent: str, steps: int, width: int = 64) -> Task:
        """Return the measurement of an agent."""
        algo, settings = (AGENTS | VARIANTS)[agent]
        envs = max(steps // STEPS, 1)
        return Task(algo, self.env, self.vec_env, steps, envs, width, self.updates, settings)


def measure(arguments: Arguments, groups: dict[int, RankGroup]) -> tuple[dict[str, list[Any]], list[Goal]]:
    """Time weak and strong scaling in interleaved rounds; return tables and goals."""
    cases = {"1 rank": (1, 1), "2 ranks, weak": (2, 1), "2 ranks, strong": (2, 2)}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(-1, arguments.rounds):
        for agent in arguments.agents:
            for case, (ranks, share) in cases.items():
                result = groups[ranks].updates(arguments.task(agent, arguments.steps // share))
                progress(
                    f"round {number + 1}/{arguments.rounds}: {agent}, {case}: {result['steps_per_s']:.0f}"
                )
                if number >= 0:
                    found.setdefault((agent, case), []).append(result)
    rows, parts, counts, goals = [], [], [], []
    for agent in arguments.agents:
        speeds = {case: [result["steps_per_s"] for result in found[agent, case]] for case in cases}
        ideal = [2 * speed for speed in speeds["1 rank"]]
        weak = Ratio.between(speeds["2 ranks, weak"], ideal)
        strong = Ratio.between(speeds["2 ranks, strong"], ideal)
        rows.append(
            {"agent": agent}
            | {f"{case}, steps/s": median(speed) for case, speed in speeds.items()}
            | {"weak efficiency": str(weak), "strong efficiency": str(strong)}
        )
        goals.append(Goal(f"{agent}: 2 ranks over twice 1 rank, weak", weak.of_medians, GOAL))
        for case in cases:
            times = {
                f"{name}, ms": 1e3 * median(result["parts"][name] for result in found[agent, case])
                for name in found[agent, case][0]["parts"]
            }
            update = 1e3 * median(result["update"] for result in found[agent, case])
            parts.append({"agent": agent, "ranks": case, "update, ms": update} | times)
        counts += count_rows(agent, [result["collectives"] for result in found[agent, "2 ranks, weak"]])
    return {"Steps per second": rows, "Time per update": parts, "Collectives per update": counts}, goals


def count_rows(agent: str, rounds: list[list[Any]]) -> list[dict[str, Any]]:
    """Return a row per part with the mean number of collectives, and the bytes of a rank."""
    rows: dict[str, dict[str, Any]] = {}
    for part, kind, calls, size in [entry for found in rounds for entry in found]:
        row = rows.setdefault(part, {"agent": agent, "part": part})
        for name, number in ((kind, calls), ("KB", size / 1000)):
            row[name] = row.get(name, 0.0) + number / len(rounds)
    names = ("agent", "part", "all_reduce", "all_gather", "broadcast", "KB")
    return [{name: row.get(name, 0.0) for name in names} for row in rows.values()]


def calibrate(arguments: Arguments, groups: dict[int, RankGroup], agent: str, width: int) -> Update:
    """Return computation, timed on one rank, and collectives, counted on two, of an agent's update."""
    few, many = arguments.model_steps
    tasks = {n: replace(arguments.task(agent, n, width), updates=1) for n in (few, many)}
    settings = tasks[few].settings
    minibatch = settings.get("critic_fit") == "minibatch"
    size = settings.get("batch_size", 128)

    def seconds(task: Task) -> float:
        groups[1].updates(task)
        return median(groups[1].updates(task)["update"] for _ in range(3 if width < 1024 else 1))

    times = {(n, size): seconds(task) for n, task in tasks.items()}
    if minibatch:
        smaller = min(size, many) // 2
        times[many, smaller] = seconds(replace(tasks[many], settings=settings | {"batch_size": smaller}))
    passes = 10 if minibatch else 0  # n_critic_updates
    fixed, per_state, per_minibatch = fit(times, lambda n, batch: passes * -(-n // batch))
    # ACKTR's factors are refreshed in one update of `factor_interval`.
    period = settings.get("factor_interval", 8) if tasks[few].algo == "acktr" else 2
    counted = groups[2].updates(replace(arguments.task(agent, 64, width), updates=period))
    collectives = [Collectives(*entry) for entry in counted["collectives"]]
    progress(f"{agent}, {width} wide: " + ", ".join(f"{n}: {t:.3g} s" for n, t in times.items()))
    return Update(fixed, per_state, per_minibatch, collectives, 128, passes, size)


def overhead(times: dict[str, float]) -> float:
    """Return the seconds per step that the software takes: half of a small all-reduce of two ranks."""
    return times[f"all_reduce {SMALL}"] / 2


def model(arguments: Arguments, groups: dict[int, RankGroup]) -> dict[str, list[Any]]:
    """Return tables of where each agent stops scaling, and draw the figure."""
    times = groups[2].collectives(BYTES)
    taken = overhead(times)
    links = {
        f"{1e6 * latency:g} µs": {
            kind: Link(kind, latency, overhead=taken if kind == "ring" else 0.0) for kind in ("ring", "tree")
        }
        for latency in arguments.latencies
    }
    flat = {f"{kind}, {text}": link for text, kinds in links.items() for kind, link in kinds.items()}
    sections = {"Collectives of two ranks": [{"collective": n, "µs": 1e6 * t} for n, t in times.items()]}
    rows = []
    for width in arguments.widths:
        first = width == arguments.widths[0]
        names = (*arguments.agents, *(VARIANTS if first and arguments.variants else ()))
        updates = {agent: calibrate(arguments, groups, agent, width) for agent in names}
        for agent, update in updates.items():
            seconds = update.seconds(arguments.steps, 1, next(iter(flat.values())))
            row = {"width": width, "agent": agent, "1 rank, ms": 1e3 * seconds}
            sizes = {"calls": 0.0, "KB": 0.0}
            for found in update.collectives:
                sizes = {"calls": sizes["calls"] + found.calls, "KB": sizes["KB"] + found.size / 1000}
            rows.append(
                row | sizes | {"fixed, ms": 1e3 * update.fixed, "per state, µs": 1e6 * update.per_state}
            )
        heading = f"Largest W with half the efficiency, and fastest W, {width} wide"
        sections[heading] = table(updates, flat, arguments.steps, arguments.strong)
        if arguments.figure is not None and first:
            shown = {agent: updates[agent] for agent in arguments.agents}
            draw(shown, links, arguments.steps, arguments.strong, arguments.figure)
    return sections | {"Computation and collectives": rows}


def check_model(arguments: Arguments) -> dict[str, list[Any]]:
    """Compare the model with updates of two ranks on a link with an added delay."""
    rows, at_once = [], dict[str, float]()
    for delay in arguments.delays:
        with DelayedLink(delay) as link, RankGroup(2, link) as ranks:
            for agent in arguments.agents:
                task = replace(arguments.task(agent, arguments.model_steps[0]), updates=2)
                result, *others = [ranks.updates(task) for _ in range(4)][1:]
                measured = 1e3 * median(other["update"] for other in (result, *others))
                without = at_once.setdefault(agent, measured)
                added = Link("ring", delay, bandwidth=float("inf"))
                modelled = without + 1e3 * sum(
                    calls * added.seconds(kind, 0.0, 2) for _, kind, calls, _ in result["collectives"]
                )
                rows.append(
                    {"agent": agent, "delay, ms": 1e3 * delay, "measured, ms": measured}
                    | {"modelled, ms": modelled, "measured / modelled": measured / modelled}
                )
                progress(json.dumps(rows[-1]))
    return {"Two ranks on a delayed link": rows}


def main(arguments: Arguments) -> None:
    """Measure and model what was asked for, and print it."""
    sections: dict[str, list[Any]] = {}
    goals: list[Goal] = []
    if {"measure", "model"} & {*arguments.parts}:
        with RankGroup(1) as one, RankGroup(2) as two:
            groups = {1: one, 2: two}
            if "measure" in arguments.parts:
                sections, goals = measure(arguments, groups)
            if "model" in arguments.parts:
                sections |= model(arguments, groups)
    if "delay" in arguments.parts:
        sections |= check_model(arguments)
    report("scaling", arguments, sections, goals)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
