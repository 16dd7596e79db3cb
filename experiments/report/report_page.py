"""The report as one HTML file that needs neither network nor server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import jinja2
    import plotly.offline  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        'the report needs jinja2 and plotly; install them with: pip install -c constraints.txt -e ".[report]"'
    ) from error

from experiments.report import appearance
from experiments.report.charts import Charts
from experiments.report.comparison import Comparison
from experiments.report.curves import GEOMETRY
from experiments.report.findings import findings
from experiments.report.run_record import RunRecord
from experiments.report.statistics import Interval
from experiments.report.task_comparison import Pair, Task

TEMPLATE = "report_page.html"
COMPARED_SCORES = ("training", "evaluation", "steps_to_threshold")
MOST_PAIRS = 6  # shown at first; if there are more, those without the best algorithm are folded


def write_page(comparison: Comparison, path: Path, *, seed: int) -> None:
    """Write the page.

    Args:
        comparison: what it shows.
        path: of the file.
        seed: of the bootstrap, which the page states.
    """
    look = appearance.styles(comparison.algorithms)
    charts = Charts(look)
    # Everything is escaped but the plots, whose own writer does, and plotly's program.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": appearance.number,
        "interval": appearance.interval,
        "probability": appearance.probability,
        "steps": appearance.steps,
        "label": appearance.label,
    }
    text = environment.get_template(TEMPLATE).render(
        comparison=comparison,
        findings=findings(comparison),
        look=look,
        records=sum(len(entry.group.records) for task in comparison.tasks for entry in task.entries),
        tasks=[task_parts(task, charts) for task in comparison.tasks],
        aggregate=aggregate_parts(comparison, charts),
        metrics=GEOMETRY,
        seed=seed,
        program=plotly.offline.get_plotlyjs(),
    )
    path.write_text(text, encoding="utf-8")


def task_parts(task: Task, charts: Charts) -> dict[str, Any]:
    """Return what the template shows of one task."""
    settings = {e.algorithm: dict(e.group.settings) | {"n_timesteps": e.group.budget} for e in task.entries}
    differs = appearance.differing(settings)
    shared = {
        name for owned in settings.values() for name in owned if all(name in o for o in settings.values())
    }
    # First what algorithms have in common but set differently, then what only some of them have.
    order = sorted(differs, key=lambda name: name not in shared)
    agree = {
        name: value for name, value in settings[task.entries[0].algorithm].items() if name not in differs
    }
    machines: dict[str, dict[str, list[str]]] = {"versions": {}, "hardware": {}}
    for entry in task.entries:
        for record in entry.group.records:
            note_machine(machines, record)
    return {
        "task": task,
        "steps": charts.learning_curves(task, "steps"),
        "seconds": charts.learning_curves(task, "seconds")
        if any("seconds" in entry.curves for entry in task.entries)
        else "",
        "scores": charts.scores(task),
        "geometry": {name: chart for name in GEOMETRY if (chart := charts.geometry(task, name))},
        "median_steps": {
            entry.algorithm: float(np.median(entry.scores["steps_to_threshold"]))
            for entry in task.entries
            if "steps_to_threshold" in entry.scores
        },
        "reached": {
            entry.algorithm: int(np.isfinite(entry.scores["steps_to_threshold"]).sum())
            for entry in task.entries
            if "steps_to_threshold" in entry.scores
        },
        **pair_parts(task.pairs, COMPARED_SCORES),
        "settings": settings,
        "differs": order,
        "shared": shared,
        "agree": agree,
        "machines": machines,
    }


def aggregate_parts(comparison: Comparison, charts: Charts) -> dict[str, Any] | None:
    """Return what the template shows of all tasks together."""
    if comparison.aggregate is None:
        return None
    pairs = pair_parts(comparison.aggregate.pairs, ("training",))
    return {"profile": charts.profile(comparison.aggregate), **pairs}


def pair_parts(pairs: Sequence[Pair], scores: Sequence[str]) -> dict[str, list[Any]]:
    """Return the rows of all pairs, or of those with the best algorithm, and the rest in `more_pairs`."""
    rows = [{"pair": pair, "cells": [cell(pair, score) for score in scores]} for pair in pairs]
    best = [row for row, pair in zip(rows, pairs, strict=True) if pair.first == pairs[0].first]
    shown = best if len(rows) > MOST_PAIRS else rows
    return {"pairs": shown, "more_pairs": [row for row in rows if row not in shown]}


def cell(pair: Pair, score: str) -> dict[str, Any]:
    """Return a probability of improvement, and whether its interval is clear of one half."""
    value: Interval | None = pair.probabilities.get(score)
    return {"value": value, "sure": value is not None and (value.low > 0.5 or value.high < 0.5)}


def note_machine(machines: dict[str, dict[str, list[str]]], record: RunRecord) -> None:
    """Add a run's versions and hardware to those found, each with the runs that have it."""
    for kind, found in machines.items():
        named = getattr(record, kind)
        text = ", ".join(f"{name} {value}" for name, value in named.items()) or "not recorded"
        found.setdefault(text, []).append(f"{appearance.label(record.algorithm)} {record.seed}")
