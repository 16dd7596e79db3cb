"""Notes about what limits a comparison, or favours one algorithm."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from experiments.report.appearance import enumeration
from experiments.report.curves import GEOMETRY, joint_factor, metric_column, metric_series
from experiments.report.pooling import Group

FEW_SEEDS = 5
# How sb3-contrib's TRPO measures its step, by the factor from its KL to the joint one.
CONTRIB_KL = {
    "unknown": "sb3-contrib's TRPO averages the KL over action dimensions, and its config.yaml lacks "
    "target_kl_joint: its KL is not shown, and its target_kl is not comparable with ours.",
    "same": "sb3-contrib's TRPO bounds KL(new ‖ old), ours KL(old ‖ new): only the direction differs here.",
    "joint": "sb3-contrib's TRPO averages KL(new ‖ old) over {factor:g} action dimensions: its target_kl "
    "{target_kl:g} is the joint bound {target_kl_joint:g} nats, which is comparable with ours, and its KL is "
    "shown times {factor:g}.",
}
CONDITIONS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "environments side by side (n_envs)": lambda settings: settings.get("n_envs", "unknown"),
    "policies": lambda settings: settings.get("policy", "unknown"),
    "network sizes (net_arch)": lambda settings: settings.get("policy_kwargs.net_arch", "default"),
    "observations": lambda settings: (
        "normalised"
        if settings.get("normalize") or settings.get("policy_kwargs.normalize_observations")
        else "raw"
    ),
    "discount factors (gamma)": lambda settings: settings.get("gamma", "unknown"),
    "episodes of a training return (stats_window_size)": lambda settings: settings.get(
        "stats_window_size", 100
    ),
}


def notes_about(groups: Sequence[Group]) -> list[str]:
    """Return all notes; one that holds for several tasks is given once, with their names."""
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.environment].append(group)
    holds: dict[str, list[str]] = defaultdict(list)
    for environment, found in tasks.items():
        for check in CHECKS:
            for note in check(found):
                holds[note].append(environment)
    notes = [f"{', '.join(environments)}: {note}" for note, environments in holds.items()]
    return [*notes, *task_versions(list(tasks)), *differing_machines(groups)]


def few_seeds(groups: Sequence[Group]) -> Iterable[str]:
    """Yield which algorithms have too few seeds for a tight interval."""
    few = {group.algorithm: len(group.records) for group in groups if len(group.records) < FEW_SEEDS}
    if one := [name for name, count in few.items() if count == 1]:
        yield (
            f"one seed of {', '.join(one)}, so that returns have no interval: it says nothing about others."
        )
    if several := [f"{name} {count}" for name, count in few.items() if count > 1]:
        yield (f"fewer than {FEW_SEEDS} seeds ({', '.join(several)}): intervals are wide and approximate.")


def different_seeds(groups: Sequence[Group]) -> Iterable[str]:
    """Yield whether algorithms ran with different seeds, or numbers of seeds."""
    seeds = by_value(groups, lambda group: ", ".join(str(record.seed) for record in group.records))
    if len(seeds) > 1:
        yield f"seeds differ: {listed(seeds)}."


def different_budgets(groups: Sequence[Group]) -> Iterable[str]:
    """Yield that budgets differ, and what that does to the scores."""
    budgets = by_value(groups, lambda group: group.budget)
    if len(budgets) > 1:
        yield (
            f"budgets differ: {listed(budgets)} steps. Training returns, areas and steps to threshold are "
            f"taken at {min(budgets)} steps; evaluations were made at the end of each run, so that only "
            "those of equal budgets are compared."
        )


def different_settings(groups: Sequence[Group]) -> Iterable[str]:
    """Yield which conditions other than the algorithm differ between algorithms."""
    for what, value in CONDITIONS.items():
        values = by_value(groups, lambda group: value(group.settings))  # noqa: B023
        if len(values) > 1:
            yield f"{what} differ: {listed(values)}."


def evaluations(groups: Sequence[Group]) -> Iterable[str]:
    """Yield whose evaluations differ in length, or are missing."""
    counts = by_value(groups, lambda group: "/".join(sorted({str(r.evaluation.size) for r in group.records})))
    runs = [(group.algorithm, record) for group in groups for record in group.records]
    if without := [f"{name} seed {record.seed}" for name, record in runs if not record.evaluation.size]:
        yield (
            f"no evaluation of {', '.join(without)} (--episodes 0): these algorithms stand without an "
            "evaluation score."
        )
    elif len(counts) > 1:
        yield f"evaluation episodes differ: {listed(counts)}; their means are differently precise."


def missing_metrics(groups: Sequence[Group]) -> Iterable[str]:
    """Yield which runs lack a metric that others of their algorithm have."""
    for group, (name, metric) in product(groups, GEOMETRY.items()):
        lacking = [str(r.seed) for r in group.records if not metric_series(r, name)[0].size]
        if 0 < len(lacking) < len(group.records):
            yield (
                f"{group.algorithm} does not log {metric.columns[0]} in seed {', '.join(lacking)}: "
                "its curve is of the other seeds."
            )


def kinds_of_kl(groups: Sequence[Group]) -> Iterable[str]:
    """Yield how logged KLs differ from the joint KL(old ‖ new)."""
    for group in groups:
        record = group.records[0]
        if group.algorithm == "contrib:trpo":
            factor = joint_factor(record)
            note = CONTRIB_KL["unknown" if factor is None else "same" if factor == 1 else "joint"]
            yield note.format_map(dict(record.settings) | {"factor": factor})
        elif metric_column(record, "kl") == "train/approx_kl":
            yield f"the KL of {group.algorithm} is SB3's estimate from the last minibatches, approx_kl."


def versions(groups: Sequence[Group]) -> Iterable[str]:
    """Yield which packages were not the same in all runs."""
    records = [record for group in groups for record in group.records]
    for package in sorted({name for record in records for name in record.versions}):
        found: dict[str, list[str]] = defaultdict(list)
        for record in records:
            found[record.versions.get(package, "unknown")].append(record.algorithm)
        if len(found) > 1:
            texts = [
                f"{version} in {len(names)} runs ({', '.join(dict.fromkeys(names))})"
                for version, names in found.items()
            ]
            yield f"{package} differs: {', '.join(texts)}."


CHECKS = (
    few_seeds,
    different_seeds,
    different_budgets,
    different_settings,
    evaluations,
    missing_metrics,
    kinds_of_kl,
    versions,
)


def task_versions(environments: Sequence[str]) -> Iterable[str]:
    """Yield which environments are versions of one task."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in environments:
        families[re.sub(r"-v\d+$", "", name)].append(name)
    for members in families.values():
        if len(members) > 1:
            yield f"{' and '.join(members)} are different tasks: nothing is compared between them."


def differing_machines(groups: Sequence[Group]) -> Iterable[str]:
    """Yield whether wall-clock times come from different machines."""
    records = [record for group in groups for record in group.records]
    machines = {tuple(sorted(record.hardware.items())) for record in records}
    devices = {record.settings.get("device") for record in records}
    if len(machines) > 1 or len(devices) > 1:
        yield (
            "Runs come from different machines or devices (see the runs' settings): their wall-clock times "
            "are not comparable."
        )


def by_value(groups: Sequence[Group], value: Callable[[Group], Any]) -> dict[Any, list[str]]:
    """Return the algorithms that share a value, by its text or number."""
    found: dict[Any, list[str]] = defaultdict(list)
    for group in groups:
        entry = value(group)
        found[entry if isinstance(entry, int | str) else str(entry)].append(group.algorithm)
    return found


def listed(values: dict[Any, list[str]]) -> str:
    """Return "8 of npg and trpo; 16 of vpg"."""
    return "; ".join(f"{value} of {enumeration(names)}" for value, names in values.items())
