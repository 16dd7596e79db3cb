"""Compare algorithms over several tasks, by scores that are normalised by references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from experiments.report.curves import Curve
from experiments.report.references import Reference
from experiments.report.score_intervals import improvement_interval, profile_interval
from experiments.report.statistics import Interval, bootstrap_interval, optimality_gap
from experiments.report.task_comparison import STATISTICS, Pair, Task

PROFILE_POINTS = 201


@dataclass(frozen=True, eq=False)
class Aggregate:
    """A comparison of algorithms over several tasks, by normalised returns.

    Attributes:
        environments: the tasks, at least two.
        score: which return is averaged: "evaluation" if that is the primary score of every task, or else
            "training".
        scores: scores by algorithm and then by statistic, i.e. by name in `STATISTICS` or "optimality gap".
        profiles: performance profiles by algorithm, over the normalised score.
        pairs: probabilities of improvement, averaged over tasks.
    """

    environments: tuple[str, ...]
    score: str
    scores: Mapping[str, Mapping[str, Interval]]
    profiles: Mapping[str, Curve]
    pairs: tuple[Pair, ...]


def make_aggregate(
    tasks: Sequence[Task], references: Mapping[str, Reference], generator: np.random.Generator
) -> tuple[Aggregate | None, list[str]]:
    """Average over the tasks with a reference, for the algorithms that have runs on all of them.

    Returns:
        The aggregate, or None if fewer than two tasks or no algorithm is left; and notes about what is left
        out.
    """
    if len(tasks) < 2:
        return None, []
    notes = []
    if missing := [task.environment for task in tasks if task.environment not in references]:
        notes.append(
            f"No reference score for {', '.join(missing)}: left out of what is averaged over tasks. "
            "Add one, with its source, to configs/references.yaml."
        )
    used = [task for task in tasks if task.environment in references]
    found = {entry.algorithm for task in used for entry in task.entries}
    everywhere = {name for name in found if all(name in {e.algorithm for e in task.entries} for task in used)}
    if partly := sorted(found - everywhere):
        notes.append(
            f"{', '.join(partly)} {'has' if len(partly) == 1 else 'have'} no run on some of these tasks: "
            "left out of what is averaged over tasks."
        )
    if len(used) < 2 or not everywhere:
        notes.append(
            "Nothing is averaged over tasks: that takes two with a reference and a common algorithm."
        )
        return None, notes
    score = "evaluation" if all(task.primary == "evaluation" for task in used) else "training"
    raw = {
        kind: {
            name: [entry.scores[kind] for task in used for entry in task.entries if entry.algorithm == name]
            for name in everywhere
        }
        for kind in dict.fromkeys((score, "training"))
    }
    units = [references[task.environment] for task in used]
    normalised = {
        name: [unit.normalise(x) for unit, x in zip(units, strata, strict=True)]
        for name, strata in sorted(raw[score].items())
    }
    statistics = STATISTICS | {"optimality gap": optimality_gap}
    scores = {
        name: {
            key: bootstrap_interval(statistic, strata, generator=generator)
            for key, statistic in statistics.items()
        }
        for name, strata in normalised.items()
    }
    ranked = sorted(scores, key=lambda name: -scores[name]["IQM"].estimate)
    every = np.concatenate([x for strata in normalised.values() for x in strata])
    grid = np.linspace(min(0.0, every.min()), max(1.0, every.max()), PROFILE_POINTS)
    return Aggregate(
        environments=tuple(task.environment for task in used),
        score=score,
        scores={name: scores[name] for name in ranked},
        profiles={name: Curve.of(grid, profile_interval(normalised[name], grid)) for name in ranked},
        pairs=tuple(
            Pair(
                first, second, {kind: improvement_interval(of[first], of[second]) for kind, of in raw.items()}
            )
            for first, second in combinations(ranked, 2)
        ),
    ), notes
