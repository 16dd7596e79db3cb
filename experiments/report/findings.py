"""Describe a comparison in sentences that claim only what the intervals support."""

from collections import defaultdict
from collections.abc import Iterable

from experiments.report.appearance import label, probability
from experiments.report.comparison import Comparison
from experiments.report.statistics import Interval
from experiments.report.task_comparison import Pair, Task
from experiments.report.templates import make_environment


def findings(comparison: Comparison) -> dict[str, str]:
    """Return the summary: {task: paragraph}, and one paragraph "All tasks" if there is an aggregate."""
    environment = make_environment(autoescape=False)
    environment.filters["by_chance"] = by_chance
    environment.tests["clear"] = lambda pair: is_clear(pair.probabilities["training"])
    sentences = environment.get_template("findings.txt").make_module()
    texts = {
        task.environment: sentences.task_summary(task, faster(task))  # type: ignore[attr-defined]
        for task in comparison.tasks
    }
    if comparison.aggregate is not None:
        texts["All tasks"] = sentences.overall(comparison.aggregate)  # type: ignore[attr-defined]
    return {name: " ".join(filter(None, text.replace("\n", " ").split(" "))) for name, text in texts.items()}


def by_chance(pairs: Iterable[Pair], score: str) -> dict[str, list[str]]:
    """Return {probability as text: labels of the second algorithms of the pairs that have it}."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        names.setdefault(probability(pair.probabilities[score]), []).append(label(pair.second))
    return names


def faster(task: Task) -> dict[str, list[Pair]]:
    """Return {algorithm: pairs in which it clearly needs fewer steps to the threshold}; it is their first."""
    score = "steps_to_threshold"
    found = defaultdict(list)
    for pair in task.pairs:
        if (chance := pair.probabilities.get(score)) is not None:
            reverse = Interval(1 - chance.estimate, 1 - chance.high, 1 - chance.low)
            for candidate in (pair, Pair(pair.second, pair.first, {score: reverse})):
                if is_clear(candidate.probabilities[score]):
                    found[candidate.first].append(candidate)
    return found


def is_clear(chance: Interval) -> bool:
    """Return whether the whole interval of a probability of improvement lies above one half."""
    return bool(chance.low > 0.5)
