"""The findings of a comparison in sentences, which claim only what the intervals support."""

from experiments.report.aggregate import Aggregate
from experiments.report.appearance import enumeration, interval, label, number, probability, steps
from experiments.report.comparison import Comparison
from experiments.report.statistics import Interval
from experiments.report.task_comparison import Entry, Pair, Task

WITH = "with probability"


def findings(comparison: Comparison) -> dict[str, str]:
    """Return the summary: a paragraph per task by its name, and one over all tasks."""
    paragraphs = {
        task.environment: " ".join(filter(None, [who_is_ahead(task), who_is_faster(task)]))
        for task in comparison.tasks
    }
    if comparison.aggregate is not None:
        paragraphs["All tasks"] = over_all_tasks(comparison.aggregate)
    return paragraphs


def who_is_ahead(task: Task) -> str:
    """Return which algorithm has the highest return, and how sure that is."""
    best = task.entries[0]
    score = score_of(best)
    where = f"After {steps(task.budget)} steps"
    if not task.pairs:
        return f"{where} {label(best.algorithm)} alone was run: {score}."
    pairs = [pair for pair in task.pairs if pair.first == best.algorithm]
    clear = [pair for pair in pairs if is_clear(pair.probabilities["training"])]
    unclear = [pair for pair in pairs if pair not in clear]
    name = label(best.algorithm)
    if not unclear:
        return f"{where} {name} is ahead: {score}. One of its runs beats a run of {chances(clear, WITH)}."
    intervals = "that interval contains" if len(unclear) == 1 else "those intervals contain"
    text = (
        f"{where} no algorithm is clearly ahead of all others. {name} has the highest return, {score}, but "
        f"the probability that one of its runs beats a run of {chances(unclear, 'is')}: {intervals} 0.5."
    )
    return f"{text} It does beat a run of {chances(clear, WITH)}." if clear else text


def who_is_faster(task: Task) -> str:
    """Return which algorithms need fewer steps than others to the threshold."""
    if task.threshold is None:
        return ""
    goal = f"a return of {number(task.threshold)}"
    if not any(entry.reached for entry in task.entries):
        return f"No run reaches {goal}."
    sentences = []
    for entry in task.entries:
        slower: dict[str, list[str]] = {}
        for pair in task.pairs:
            found = pair.probabilities.get("steps_to_threshold")
            if found is None or entry.algorithm not in (pair.first, pair.second):
                continue
            chance, other = found, pair.second
            if pair.second == entry.algorithm:
                chance, other = Interval(1 - found.estimate, 1 - found.high, 1 - found.low), pair.first
            if is_clear(chance):
                slower.setdefault(probability(chance), []).append(label(other))
        if slower:
            texts = [f"{enumeration(names)} (probability {text})" for text, names in slower.items()]
            sentences.append(
                f"{label(entry.algorithm)} needs fewer steps to {goal} than {', than '.join(texts)}."
            )
    if not sentences and task.pairs:
        sentences.append(f"No two algorithms clearly differ in the steps that they need to {goal}.")
    counts = (f"{label(e.algorithm)} {e.reached} of {len(e.group.records)}" for e in task.entries)
    return " ".join([*sentences, f"Seeds that reach it: {enumeration(counts)}."])


def over_all_tasks(aggregate: Aggregate) -> str:
    """Return which algorithm has the highest normalised return."""
    best, *others = aggregate.scores
    text = (
        f"Over {enumeration(aggregate.environments)} together, {label(best)} has the highest normalised "
        f"return, IQM {interval(aggregate.scores[best]['IQM'])}"
    )
    if not others:
        return f"{text}."
    pairs = [pair for pair in aggregate.pairs if pair.first == best]
    text += f". Averaged over tasks, one of its runs beats a run of {chances(pairs, WITH)}"
    if unclear := [label(pair.second) for pair in pairs if not is_clear(pair.probabilities["training"])]:
        text += f", which is no clear lead over {enumeration(unclear)}"
    return f"{text}."


def score_of(entry: Entry) -> str:
    """Return an algorithm's training return in words."""
    found = entry.aggregates["training"]["IQM"]
    count = len(entry.group.records)
    if count == 1:
        return f"{number(found.estimate)} (one seed, so without an interval)"
    return f"{interval(found)} (IQM of {count} seeds, 95 % interval)"


def chances(pairs: list[Pair], verb: str) -> str:
    """Return "NPG or VPG is 0.9 [0.6, 1.0]; a run of TRPO is 0.8 [0.5, 0.9]", equal chances together."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        names.setdefault(probability(pair.probabilities["training"]), []).append(label(pair.second))
    texts = [f"{enumeration(found, 'or')} {verb} {chance}" for chance, found in names.items()]
    return "; a run of ".join(texts)


def is_clear(chance: Interval) -> bool:
    """Whether a probability of improvement lies above one half, its interval included."""
    return bool(chance.low > 0.5)
