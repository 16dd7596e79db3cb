"""A comparison's numbers as CSV files."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.report.comparison import Comparison
from experiments.report.statistics import Interval
from experiments.report.task_comparison import Pair

ALL_TASKS = "all, normalised"  # stands in the column of environments
Row = dict[str, Any]


def write_tables(comparison: Comparison, out: Path) -> list[Path]:
    """Write scores of runs, aggregates, probabilities and curves into a folder, and return their paths."""
    tables = {
        "runs": run_rows,
        "aggregates": aggregate_rows,
        "improvement": pair_rows,
        "curves": curve_rows,
    }
    paths = []
    for name, rows in tables.items():
        paths.append(out / f"{name}.csv")
        write_rows(paths[-1], list(rows(comparison)))
    return paths


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows, the columns those of any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield every run's scores; empty if it has none, inf if it never reached the threshold."""
    for task in comparison.tasks:
        for entry in task.entries:
            for k, record in enumerate(entry.group.records):
                yield {
                    "environment": task.environment,
                    "algorithm": entry.algorithm,
                    "seed": record.seed,
                    "steps": task.budget,
                    **{name: values[k] for name, values in entry.scores.items() if values.size},
                    "path": record.path,
                }


def aggregate_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield every aggregate with its interval."""
    for task in comparison.tasks:
        for entry in task.entries:
            for score, statistics in entry.aggregates.items():
                for name, value in statistics.items():
                    owner = {"environment": task.environment, "algorithm": entry.algorithm}
                    yield {**owner, "runs": len(entry.group.records), "score": score} | bounds(name, value)
    if comparison.aggregate is not None:
        for algorithm, statistics in comparison.aggregate.scores.items():
            for name, value in statistics.items():
                owner = {"environment": ALL_TASKS, "algorithm": algorithm}
                yield {**owner, "score": "training"} | bounds(name, value)


def bounds(statistic: str, value: Interval) -> Row:
    """Return an interval as cells."""
    return {"statistic": statistic, "estimate": value.estimate, "low": value.low, "high": value.high}


def pair_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield every probability of improvement with its interval."""
    found: list[tuple[str, Iterable[Pair]]] = [(task.environment, task.pairs) for task in comparison.tasks]
    if comparison.aggregate is not None:
        found.append((ALL_TASKS, comparison.aggregate.pairs))
    for environment, pairs in found:
        for pair in pairs:
            for score, value in pair.probabilities.items():
                owner = {"environment": environment, "first": pair.first, "second": pair.second}
                yield {**owner, "score": score} | bounds("P(first better than second)", value)


def curve_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield the points of all curves: over steps, over seconds, of the geometry, and performance profiles."""
    found = [
        (task.environment, entry.algorithm, name, curve)
        for task in comparison.tasks
        for entry in task.entries
        for name, curve in entry.curves.items()
    ]
    if comparison.aggregate is not None:
        profiles = comparison.aggregate.profiles
        found += [(ALL_TASKS, algorithm, "profile", curve) for algorithm, curve in profiles.items()]
    for environment, algorithm, name, curve in found:
        for x, estimate, low, high in zip(curve.x, curve.estimate, curve.low, curve.high, strict=True):
            owner = {"environment": environment, "algorithm": algorithm, "curve": name}
            yield {**owner, "x": x, "estimate": estimate, "low": low, "high": high}
