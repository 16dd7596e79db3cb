"""Predict the time per update on many ranks from measurements on one and two, and check the prediction."""

import json
from dataclasses import replace
from statistics import median
from typing import Any

from delayed_link import DelayedLink
from measurement import progress
from scaling_arguments import VARIANTS, Arguments
from scaling_figure import draw
from scaling_group import RankGroup
from scaling_model import Collectives, Link, Update, fit, table
from scaling_worker import Task

KINDS = ("all_reduce", "all_gather", "broadcast")
SMALL = 4096  # bytes; a message of this size takes as long as one of a few bytes
BYTES = (8, SMALL, 65_536, 1_048_576)


def calibrate(arguments: Arguments, groups: dict[int, RankGroup], agent: str, width: int) -> Update:
    """Return computation, timed on one rank, and collectives, counted on two, of an agent's update."""
    few, many = arguments.model_steps
    tasks = {n: replace(arguments.task(agent, n, width), updates=1) for n in (few, many)}
    settings = tasks[few].settings
    minibatch = settings.get("critic_fit") == "minibatch"
    size = settings.get("batch_size", 128)

    def seconds(task: Task) -> float:
        groups[1].updates(task)
        return median(groups[1].updates(task)["cpu"] for _ in range(3 if width < 1024 else 1))

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


def predict(arguments: Arguments, groups: dict[int, RankGroup]) -> dict[str, list[Any]]:
    """Return tables of where each agent stops scaling, and draw the figure."""
    times = groups[2].collectives(BYTES)
    taken = times[f"all_reduce {SMALL}"][0] / 2  # it has two steps
    links = {
        f"{1e6 * latency:g} µs": {
            kind: Link(kind, latency, overhead=taken if kind == "ring" else 0.0) for kind in ("ring", "tree")
        }
        for latency in arguments.latencies
    }
    flat = {f"{kind}, {text}": link for text, kinds in links.items() for kind, link in kinds.items()}
    sections: dict[str, list[Any]] = {
        "Collectives of two ranks": [
            {"collective": name, "least, µs": 1e6 * least, "in a chain, µs": 1e6 * middle}
            for name, (least, middle) in times.items()
        ]
    }
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
        heading = f"Largest W with half the weak efficiency / fastest W, strong (speed-up); {width} wide"
        sections[heading] = table(updates, flat, arguments.steps, arguments.strong)
        if arguments.figure is not None and first:
            shown = {agent: updates[agent] for agent in arguments.agents}
            draw(shown, links, arguments.steps, arguments.strong, arguments.figure)
    return sections | {"Computation and collectives": rows}


def check(arguments: Arguments) -> dict[str, list[Any]]:
    """Compare the model with updates of two ranks on a link with an added delay.

    Modelled is the time without a delay, and for every collective the time that a small one takes longer, by
    the delay (a step takes two) or as timed alone.
    """
    rows, at_once, alone = [], dict[str, float](), list[dict[str, float]]()
    for delay in arguments.delays:
        added = Link("ring", delay)
        with DelayedLink(delay) as link, RankGroup(2, link) as ranks:
            timed = ranks.collectives([SMALL])
            alone.append({kind: timed[f"{kind} {SMALL}"][1] for kind in KINDS})
            for agent in arguments.agents:
                task = replace(arguments.task(agent, arguments.model_steps[0]), updates=2)
                result, *others = [ranks.updates(task) for _ in range(4)][1:]
                measured = median(other["update"] for other in (result, *others))
                by_delay = by_timing = at_once.setdefault(agent, measured)
                for _, kind, calls, _ in result["collectives"]:
                    by_delay += calls * added.seconds(kind, 0.0, 2)
                    by_timing += calls * (alone[-1][kind] - alone[0][kind])
                rows.append(
                    {
                        "agent": agent,
                        "delay, ms": 1e3 * delay,
                        "all-reduce alone, ms": 1e3 * alone[-1]["all_reduce"],
                        "measured, ms": 1e3 * measured,
                        "modelled by the delay, ms": 1e3 * by_delay,
                        "modelled by timing, ms": 1e3 * by_timing,
                    }
                )
                progress(json.dumps(rows[-1]))
    return {"Two ranks on a delayed link": rows}
