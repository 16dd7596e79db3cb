"""Compare the algorithms on one task: scores, aggregates over seeds, and all pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from experiments.cost_names import cost_names
from experiments.report.curve_scores import area_under_curve, steps_to_threshold
from experiments.report.curves import GEOMETRY, Curve, geometry_curve, learning_curve
from experiments.report.pooling import Group
from experiments.report.run_files import RETURN
from experiments.report.run_record import RunRecord
from experiments.report.score_intervals import improvement_interval
from experiments.report.statistics import Interval, bootstrap_interval, iqm, mean, median

STATISTICS = {"IQM": iqm, "mean": mean, "median": median}


@dataclass(frozen=True, eq=False)
class Entry:
    """One algorithm on one task.

    Attributes:
        group: the algorithm's runs.
        scores: scores by name, (runs,) each: "training" and "evaluation" returns (the latter are empty unless
            all runs have an evaluation), "area", "steps_to_threshold" (inf if never reached; missing without
            a threshold), "seconds", and, in environments with costs, "cost" (or "cost_0", ...), the mean
            over the episodes of the evaluation.
        aggregates: aggregates by score and then by name in `STATISTICS`; none of "steps_to_threshold".
        curves: learning curves over "steps" and over "seconds", and those of `GEOMETRY`, by these names; a
            curve without data is missing.
    """

    group: Group
    scores: Mapping[str, np.ndarray]
    aggregates: Mapping[str, Mapping[str, Interval]]
    curves: Mapping[str, Curve]

    @property
    def costs(self) -> list[str]:
        """The names of the costs among the scores."""
        return [name for name in self.aggregates if name.startswith("cost")]

    @property
    def algorithm(self) -> str:
        """The algorithm's name."""
        return self.group.algorithm

    @property
    def reached(self) -> int:
        """The number of runs whose training return reaches the threshold."""
        return int(np.isfinite(self.scores["steps_to_threshold"]).sum())

    def solved(self, threshold: float) -> int:
        """Return the number of runs whose evaluation reaches a return."""
        return int((self.scores["evaluation"] >= threshold).sum())


@dataclass(frozen=True, eq=False)
class Pair:
    """The probability that a run of one algorithm is better than a run of another; ties count one half.

    Attributes:
        first: name of the algorithm with the higher IQM of the task's primary score.
        second: name of the other algorithm.
        probabilities: probabilities by score; fewer "steps_to_threshold" are better. Scores that cannot be
            compared are missing.
    """

    first: str
    second: str
    probabilities: Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class Task:
    """All algorithms on one task.

    Attributes:
        environment: Gymnasium id.
        budget: environment steps after which returns are compared, the smallest budget of all runs.
        threshold: the return that counts as solved, or None.
        entries: the algorithms, with the highest IQM of the primary score first.
        pairs: all pairs of algorithms, in the order of `entries`.
    """

    environment: str
    budget: int
    threshold: float | None
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]

    @property
    def primary(self) -> str:
        """The score that ranks the algorithms: "evaluation" if they have comparable ones, or "training"."""
        return primary_score(self.entries)

    @property
    def by_name(self) -> list[Entry]:
        """The entries in the order of their algorithms' names, which all plots use."""
        return sorted(self.entries, key=lambda entry: entry.algorithm)


def make_entry(group: Group, budget: int, threshold: float | None, generator: np.random.Generator) -> Entry:
    """Compute the scores of one algorithm on one task."""
    rows = [row_scores(record, budget, threshold) for record in group.records]
    scores = {name: np.array([row[name] for row in rows if name in row]) for name in (*rows[0], "evaluation")}
    for name, values in scores.items():
        if len(values) < len(rows):  # an average over some of the runs would be misleading
            scores[name] = np.empty(0)
    aggregates = {
        score: {
            name: bootstrap_interval(statistic, [scores[score]], generator=generator)
            for name, statistic in STATISTICS.items()
        }
        for score, values in scores.items()
        if values.size and score != "steps_to_threshold"
    }
    curves = {
        "steps": learning_curve(group, generator=generator),
        "seconds": learning_curve(group, over_seconds=True, generator=generator),
        **{name: geometry_curve(group, name, generator=generator) for name in GEOMETRY},
    }
    return Entry(group, scores, aggregates, {name: curve for name, curve in curves.items() if curve})


def row_scores(record: RunRecord, budget: int, threshold: float | None) -> dict[str, float]:
    """Return a run's scores in the row of its log at which training with this budget would have ended."""
    steps, returns = record.series(RETURN)
    at = min(int(np.searchsorted(steps, budget)), len(steps) - 1)
    seconds = record.series(record.clock)
    scores = {
        "training": float(returns[at]),
        "area": area_under_curve(steps[: at + 1], returns[: at + 1]),
        "seconds": float(np.interp(steps[at], *seconds)),
    }
    if threshold is not None:
        scores["steps_to_threshold"] = steps_to_threshold(steps[: at + 1], returns[: at + 1], threshold)
    if record.evaluation.size:
        scores["evaluation"] = float(record.evaluation.mean())
    if record.costs.size:
        means = record.costs.mean(axis=0).tolist()
        scores |= dict(zip(cost_names(len(means)), means, strict=True))
    return scores


def make_task(environment: str, budget: int, threshold: float | None, entries: list[Entry]) -> Task:
    """Rank the algorithms on one task, and compare all pairs."""
    scores = (primary_score(entries), "training")  # the second decides between equal ones
    ranked = sorted(entries, key=lambda e: [-e.aggregates[score]["IQM"].estimate for score in scores])
    pairs = tuple(make_pair(first, second, budget) for first, second in combinations(ranked, 2))
    return Task(environment, budget, threshold, tuple(ranked), pairs)


def primary_score(entries: Sequence[Entry]) -> str:
    """Return the score that ranks algorithms; an evaluation is made at the end of a run, after its budget."""
    same = len({entry.group.budget for entry in entries}) == 1
    return "evaluation" if same and all(e.scores["evaluation"].size for e in entries) else "training"


def make_pair(first: Entry, second: Entry, budget: int) -> Pair:
    """Compare two algorithms on one task."""
    x, y = first.scores, second.scores
    found = {"training": improvement_interval([x["training"]], [y["training"]])}
    # An evaluation is made at the end of a run, so those after different budgets are not comparable.
    if x["evaluation"].size and y["evaluation"].size and first.group.budget == second.group.budget:
        found["evaluation"] = improvement_interval([x["evaluation"]], [y["evaluation"]])
    if "steps_to_threshold" in x:
        ours, theirs = (np.minimum(s["steps_to_threshold"], 2.0 * budget) for s in (x, y))  # finite if never
        if min(ours.min(), theirs.min()) < 2.0 * budget:
            found["steps_to_threshold"] = improvement_interval([-ours], [-theirs])
    return Pair(first.algorithm, second.algorithm, found)
