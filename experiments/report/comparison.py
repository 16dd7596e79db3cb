"""Compare several algorithms by their runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.report.aggregate import Aggregate, make_aggregate
from experiments.report.fairness import notes_about
from experiments.report.pooling import pool
from experiments.report.references import Reference
from experiments.report.run_record import LeftOut, RunRecord
from experiments.report.task_comparison import Entry, Task, make_entry, make_task


@dataclass(frozen=True, eq=False)
class Comparison:
    """The content of a report.

    Attributes:
        tasks: the tasks in the order of their ids.
        aggregate: averages over tasks; None if that is impossible, see `make_aggregate`.
        references: references by environment, for the tasks that have one.
        notes: sentences about what limits the comparison.
        left_out: paths that are not used.
    """

    tasks: tuple[Task, ...]
    aggregate: Aggregate | None
    references: Mapping[str, Reference]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def algorithms(self) -> list[str]:
        """The names of all algorithms, sorted."""
        return sorted({entry.algorithm for task in self.tasks for entry in task.entries})


def compare(
    records: Iterable[RunRecord],
    left_out: Iterable[LeftOut],
    *,
    thresholds: Mapping[str, float],
    references: Mapping[str, Reference],
    generator: np.random.Generator,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Comparison:
    """Compare all algorithms on every task.

    Args:
        records: the runs.
        left_out: paths that `find_runs` left out.
        thresholds: returns that count as solved, by environment.
        references: references for normalised scores, by environment.
        generator: random number generator of the bootstrap.
        progress: wraps the list of groups, e.g. in a progress bar.
    """
    groups, rest = pool(records)
    budgets: dict[str, int] = {}
    for group in groups:
        budgets[group.environment] = min(group.budget, budgets.get(group.environment, group.budget))
    entries: dict[str, list[Entry]] = {name: [] for name in budgets}
    for group in progress(groups):
        name = group.environment
        entries[name].append(make_entry(group, budgets[name], thresholds.get(name), generator))
    tasks = tuple(
        make_task(name, budgets[name], thresholds.get(name), found) for name, found in entries.items()
    )
    known = {name: references[name] for name in budgets if name in references}
    aggregate, notes = make_aggregate(tasks, known, generator)
    return Comparison(tasks, aggregate, known, (*notes_about(groups), *notes), (*left_out, *rest))
