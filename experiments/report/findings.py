"""Describe a comparison in sentences that claim only what the intervals support."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.report.appearance import enumeration, label, probability
from experiments.report.comparison import Comparison
from experiments.report.score_intervals import improvement_interval
from experiments.report.statistics import Interval
from experiments.report.task_comparison import Entry, Pair, Task
from experiments.report.templates import make_environment


def findings(comparison: Comparison) -> dict[str, str]:
    """Return the summary: {task: lines of text}, and "All tasks" if there is an aggregate."""
    environment = make_environment(autoescape=False)
    for use in (by_chance, best, pairs_of, seeds_of, counts):
        environment.filters[use.__name__] = use
    environment.tests |= {"clear": lambda pair, score: is_clear(pair.probabilities[score])}
    environment.tests |= {"equal": are_equal, "too_few": too_few}
    sentences = environment.get_template("findings.txt").make_module()
    texts = {
        task.environment: sentences.task_summary(task, faster(task))  # type: ignore[attr-defined]
        for task in comparison.tasks
    }
    if comparison.aggregate is not None:
        texts["All tasks"] = sentences.overall(comparison.aggregate)  # type: ignore[attr-defined]
    return {name: "\n".join(map(one_spaced, text.split("¶"))) for name, text in texts.items()}


def one_spaced(text: str) -> str:
    """Return text with single spaces in the place of spaces and line breaks, but not of narrow spaces."""
    return " ".join(filter(None, text.replace("\n", " ").split(" ")))


def by_chance(pairs: Iterable[Pair], score: str) -> dict[str, list[str]]:
    """Return {probability as text: labels of the second algorithms of the pairs that have it}."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        names.setdefault(probability(pair.probabilities[score]), []).append(label(pair.second))
    return names


def best(task: Task, score: str) -> Entry:
    """Return the entry with the highest IQM of a score."""
    return max(task.entries, key=lambda entry: entry.aggregates[score]["IQM"].estimate)


def pairs_of(task: Task, entry: Entry, score: str) -> list[Pair]:
    """Return the pairs of an entry with every other one; it is their first."""
    found = [pair if pair.first == entry.algorithm else reversed_pair(pair, score) for pair in task.pairs]
    return [pair for pair in found if pair.first == entry.algorithm]


def reversed_pair(pair: Pair, score: str) -> Pair:
    """Return a pair the other way round, with the probability by one score only."""
    chance = pair.probabilities[score]
    reverse = Interval(1 - chance.estimate, 1 - chance.high, 1 - chance.low)
    return Pair(pair.second, pair.first, {score: reverse})


def are_equal(task: Task, score: str) -> bool:
    """Return whether all runs of a task have the same score."""
    return len({float(value) for entry in task.entries for value in entry.scores[score]}) == 1


def seed_counts(task: Task, pairs: Sequence[Pair]) -> dict[str, int]:
    """Return {algorithm: number of seeds} of the algorithms in pairs."""
    named = {name for pair in pairs for name in (pair.first, pair.second)}
    return {e.algorithm: len(e.group.records) for e in task.entries if e.algorithm in named}


def too_few(pairs: Sequence[Pair], task: Task) -> bool:
    """Return whether no result of so few seeds could exclude a probability of 0.5, for every pair."""
    number = seed_counts(task, pairs)
    return all(
        not is_clear(improvement_interval([np.ones(number[pair.first])], [np.zeros(number[pair.second])]))
        for pair in pairs
    )


def seeds_of(task: Task, pairs: Sequence[Pair]) -> str:
    """Return the numbers of seeds of the algorithms in pairs, e.g. "2 seeds"."""
    found = sorted(set(seed_counts(task, pairs).values()))
    return f"{enumeration(map(str, found), 'or')} seed{'s' if found != [1] else ' each'}"


def counts(task: Task, numbers: Iterable[int]) -> str:
    """Return the number of runs of every algorithm, of how many, as text."""
    pairs = zip(task.entries, numbers, strict=True)
    return enumeration([f"{label(e.algorithm)} {n} of {len(e.group.records)}" for e, n in pairs])


def faster(task: Task) -> dict[str, list[Pair]]:
    """Return {algorithm: pairs in which it clearly needs fewer steps to the threshold}; it is their first."""
    score = "steps_to_threshold"
    found = defaultdict(list)
    for pair in task.pairs:
        if score in pair.probabilities:
            for candidate in (pair, reversed_pair(pair, score)):
                if is_clear(candidate.probabilities[score]):
                    found[candidate.first].append(candidate)
    return found


def is_clear(chance: Interval) -> bool:
    """Return whether the whole interval of a probability of improvement lies above one half."""
    return bool(chance.low > 0.5)
