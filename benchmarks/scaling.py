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

from statistics import median
from typing import Any

import tyro
from measurement import Goal, Ratio, progress, report
from scaling_arguments import Arguments
from scaling_group import RankGroup
from scaling_prediction import check, predict

GOAL = 0.85  # two ranks' steps per second, as a fraction of twice one rank's


def measure(arguments: Arguments, groups: dict[int, RankGroup]) -> tuple[dict[str, list[Any]], list[Goal]]:
    """Time weak and strong scaling in interleaved rounds; return tables and goals."""
    cases = {"1 rank": (1, 1), "2 ranks, weak": (2, 1), "2 ranks, strong": (2, 2)}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(-1, arguments.rounds):
        for agent in arguments.agents:
            for case, (ranks, share) in cases.items():
                task = arguments.task(agent, arguments.steps // share)
                result = groups[ranks].least_disturbed(task, arguments.attempts, arguments.most_others)
                progress(
                    f"round {number + 1}/{arguments.rounds}: {agent}, {case}: {result['steps_per_s']:.0f} "
                    f"steps/s; {result['others']:.2f} cores used by others"
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
            | {"cores used by others": max(r["others"] for case in cases for r in found[agent, case])}
        )
        goals.append(Goal(f"{agent}: 2 ranks over twice 1 rank, weak", weak.of_medians, GOAL))
        for case in cases:
            times = {
                f"{name}, ms": 1e3 * median(result["parts"][name] for result in found[agent, case])
                for name in found[agent, case][0]["parts"]
            }
            update = 1e3 * median(result["update"] for result in found[agent, case])
            cpu = 1e3 * median(result["cpu"] for result in found[agent, case])
            row = {"agent": agent, "ranks": case, "update, ms": update}
            parts.append(row | times | {"processor, ms": cpu})
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
                sections |= predict(arguments, groups)
    if "delay" in arguments.parts:
        sections |= check(arguments)
    report("scaling", arguments, sections, goals)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
