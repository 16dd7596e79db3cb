"""Write a comparison's numbers as CSV files."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.report.comparison import Comparison
from experiments.report.task_comparison import Entry, Pair, Task
from experiments.run.atomic_file import replacing
from experiments.terminal import one_line

ALL_TASKS = "all, normalised"  # value of the column `environment` in averages over tasks
# Characters that start a formula in a spreadsheet, including full-width ones.
FORMULA = (*"=+-@\uff1d\uff0b\uff0d\uff20", "\\t", "\\r", "\\n")
Row = dict[str, Any]


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write runs.csv, aggregates.csv, improvement.csv and curves.csv into a folder."""
    tables = {"runs": run_rows, "aggregates": aggregate_rows, "improvement": pair_rows, "curves": curve_rows}
    for name, make_rows in tables.items():
        rows = list(make_rows(comparison))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: as_cell(value) for key, value in row.items()} for row in rows)
        with replacing(out / f"{name}.csv") as file:
            file.write(text.getvalue().encode())


def as_cell(value: Any) -> Any:
    """Return text that a spreadsheet shows as text, not as a formula; a number is returned unchanged."""
    if not isinstance(value, str | Path):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def run_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield the scores of every run; steps to threshold are inf if it was never reached."""
    for task, entry in entries(comparison):
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
    for task, entry in entries(comparison):
        owner: Row = {"environment": task.environment, "algorithm": entry.algorithm}
        for score, statistics in entry.aggregates.items():
            for name, value in statistics.items():
                about = {"runs": len(entry.group.records), "score": score, "statistic": name}
                yield owner | about | vars(value)
    if comparison.aggregate is not None:
        for algorithm, statistics in comparison.aggregate.scores.items():
            owner = {"environment": ALL_TASKS, "algorithm": algorithm, "score": comparison.aggregate.score}
            for name, value in statistics.items():
                yield owner | {"statistic": name} | vars(value)


def pair_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield every probability of improvement with its interval."""
    found: list[tuple[str, Iterable[Pair]]] = [(task.environment, task.pairs) for task in comparison.tasks]
    if comparison.aggregate is not None:
        found.append((ALL_TASKS, comparison.aggregate.pairs))
    for environment, pairs in found:
        for pair in pairs:
            owner: Row = {"environment": environment, "first": pair.first, "second": pair.second}
            for score, value in pair.probabilities.items():
                yield owner | {"score": score, "statistic": "P(first better than second)"} | vars(value)


def curve_rows(comparison: Comparison) -> Iterator[Row]:
    """Yield the points of all curves: learning curves, metrics of `GEOMETRY`, and performance profiles."""
    found = [
        (task.environment, entry.algorithm, name, curve)
        for task, entry in entries(comparison)
        for name, curve in entry.curves.items()
    ]
    if comparison.aggregate is not None:
        profiles = comparison.aggregate.profiles
        found += [(ALL_TASKS, algorithm, "profile", curve) for algorithm, curve in profiles.items()]
    for environment, algorithm, name, curve in found:
        owner: Row = {"environment": environment, "algorithm": algorithm, "curve": name}
        columns = {name: getattr(curve, name) for name in ("x", "estimate", "low", "high")}
        for point in zip(*columns.values(), strict=True):
            yield owner | dict(zip(columns, point, strict=True))


def entries(comparison: Comparison) -> Iterator[tuple[Task, Entry]]:
    """Yield every algorithm on every task."""
    return ((task, entry) for task in comparison.tasks for entry in task.entries)
