"""Write notes about what limits a comparison or favours one algorithm."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, TypeVar

from experiments.report.appearance import enumeration
from experiments.report.curves import GEOMETRY, joint_factor, metric_column, metric_series
from experiments.report.pooling import FEW_SEEDS, Group

Value = TypeVar("Value")
# Notes about the KL of sb3-contrib's TRPO, by what is known of the factor that converts it to the joint KL.
CONTRIB_KL = {
    "unknown": "sb3-contrib's TRPO averages the KL over action dimensions, and its config.yaml lacks "
    "target_kl_joint: its KL is not shown, and its target_kl is not comparable with ours.",
    "same": "sb3-contrib's TRPO bounds KL(new ‖ old), ours KL(old ‖ new): only the direction differs here.",
    "joint": "sb3-contrib's TRPO averages KL(new ‖ old) over {factor:g} action dimensions: its target_kl "
    "{target_kl:g} is the joint bound {target_kl_joint:g} nats, which is comparable with ours, and its KL is "
    "shown times {factor:g}.",
}
# Functions whose values should be equal for all algorithms, and the note if they are not.
DIFFERENCES: tuple[tuple[Callable[[Group], Any], str], ...] = (
    (lambda group: ", ".join(str(record.seed) for record in group.records), "seeds differ: {}."),
    (
        lambda group: group.budget,
        "budgets differ: {} steps. Training returns, areas and steps to threshold are taken at the smallest; "
        "evaluations were made at the end of each run, so that only those of equal budgets are compared.",
    ),
    (
        lambda group: group.settings.get("n_envs", "unknown"),
        "environments side by side (n_envs) differ: {}.",
    ),
    (lambda group: group.settings.get("policy", "unknown"), "policies differ: {}."),
    (
        lambda group: group.settings.get("policy_kwargs.net_arch", "default"),
        "network sizes (net_arch) differ: {}.",
    ),
    (lambda group: "normalised" if normalised(group) else "raw", "observations differ: {}."),
    (lambda group: group.settings.get("gamma", "unknown"), "discount factors (gamma) differ: {}."),
    (
        lambda group: group.settings.get("stats_window_size", 100),
        "episodes of a training return (stats_window_size) differ: {}.",
    ),
    (
        lambda group: "/".join(sorted({str(record.evaluation.size) for record in group.records})),
        "evaluation episodes differ: {}; their means are differently precise.",
    ),
)


def notes_about(groups: Sequence[Group]) -> list[str]:
    """Return all notes; a note that applies to several tasks is returned once, with their names."""
    tasks = grouped((group.environment, group) for group in groups)
    holds = grouped(
        (note, name) for name, found in tasks.items() for check in CHECKS for note in check(found)
    )
    notes = [f"{', '.join(environments)}: {note}" for note, environments in holds.items()]
    return [*notes, *task_versions(list(tasks)), *differing_machines(groups)]


def few_seeds(groups: Sequence[Group]) -> Iterable[str]:
    """Yield notes about algorithms with too few seeds for a tight interval."""
    few = {group.algorithm: len(group.records) for group in groups if len(group.records) < FEW_SEEDS}
    if one := [name for name, count in few.items() if count == 1]:
        yield (
            f"one seed of {', '.join(one)}, so that returns have no interval: it says nothing about others."
        )
    if several := [f"{name} {count}" for name, count in few.items() if count > 1]:
        yield (f"fewer than {FEW_SEEDS} seeds ({', '.join(several)}): intervals are wide and approximate.")


def differences(groups: Sequence[Group]) -> Iterable[str]:
    """Yield notes about conditions that differ between algorithms."""
    for value, sentence in DIFFERENCES:
        found = grouped((str(value(group)), group.algorithm) for group in groups)
        if len(found) > 1:
            texts = [f"{text} of {enumeration(names)}" for text, names in found.items()]
            yield sentence.format("; ".join(texts))


def missing_evaluations(groups: Sequence[Group]) -> Iterable[str]:
    """Yield a note about runs without an evaluation."""
    runs = [(group.algorithm, record) for group in groups for record in group.records]
    if without := [f"{name} seed {record.seed}" for name, record in runs if not record.evaluation.size]:
        yield f"no evaluation of {', '.join(without)} (--episodes 0): no evaluation score."


def missing_metrics(groups: Sequence[Group]) -> Iterable[str]:
    """Yield notes about runs that lack a metric which others of their algorithm have."""
    for group, (name, metric) in product(groups, GEOMETRY.items()):
        lacking = [str(r.seed) for r in group.records if not metric_series(r, name)[0].size]
        if 0 < len(lacking) < len(group.records):
            yield (
                f"{group.algorithm} does not log {metric.columns[0]} in seed {', '.join(lacking)}: "
                "its curve is of the other seeds."
            )


def kinds_of_kl(groups: Sequence[Group]) -> Iterable[str]:
    """Yield notes about logged KLs that are not the joint KL(old ‖ new)."""
    for group in groups:
        record = group.records[0]
        if group.algorithm == "contrib:trpo":
            factor = joint_factor(record)
            note = CONTRIB_KL["unknown" if factor is None else "same" if factor == 1 else "joint"]
            yield note.format_map(dict(record.settings) | {"factor": factor})
        elif metric_column(record, "kl") == "train/approx_kl":
            yield f"the KL of {group.algorithm} is SB3's estimate from the last minibatches, approx_kl."


def versions(groups: Sequence[Group]) -> Iterable[str]:
    """Yield notes about packages whose versions differ between runs."""
    records = [record for group in groups for record in group.records]
    for package in sorted({name for record in records for name in record.versions}):
        found = grouped((record.versions.get(package, "unknown"), record.algorithm) for record in records)
        if len(found) > 1:
            texts = [
                f"{version} in {len(names)} runs ({', '.join(dict.fromkeys(names))})"
                for version, names in found.items()
            ]
            yield f"{package} differs: {', '.join(texts)}."


CHECKS = (few_seeds, differences, missing_evaluations, missing_metrics, kinds_of_kl, versions)


def task_versions(environments: Sequence[str]) -> Iterable[str]:
    """Yield notes about environments that are versions of the same task."""
    for members in grouped((re.sub(r"-v\d+$", "", name), name) for name in environments).values():
        if len(members) > 1:
            yield f"{' and '.join(members)} are different tasks: nothing is compared between them."


def differing_machines(groups: Sequence[Group]) -> Iterable[str]:
    """Yield a note if runs come from different machines or devices."""
    records = [record for group in groups for record in group.records]
    machines = {tuple(sorted(record.hardware.items())) for record in records}
    devices = {record.settings.get("device") for record in records}
    if len(machines) > 1 or len(devices) > 1:
        yield (
            "Runs come from different machines or devices (see the runs' settings): their wall-clock times "
            "are not comparable."
        )


def grouped(pairs: Iterable[tuple[str, Value]]) -> dict[str, list[Value]]:
    """Return {first item: list of its second items}."""
    found: dict[str, list[Value]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def normalised(group: Group) -> bool:
    """Return whether observations are normalised, by `VecNormalize` or by the policy."""
    return bool(group.settings.get("normalize") or group.settings.get("policy_kwargs.normalize_observations"))
