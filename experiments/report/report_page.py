"""Write the report as one HTML file, which needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.report import appearance
from experiments.report.charts import Charts
from experiments.report.comparison import Comparison
from experiments.report.curves import GEOMETRY
from experiments.report.findings import findings
from experiments.report.pooling import Group
from experiments.report.reproduce import commands
from experiments.report.run_record import RunRecord
from experiments.report.task_comparison import Pair, Task
from experiments.report.templates import make_environment
from experiments.run.atomic_file import replacing

TEMPLATE = "report_page.html"
MOST_PAIRS = 6  # if there are more, those without the best algorithm are collapsed


def write_page(comparison: Comparison, path: Path, *, seed: int, command: str = "npg report") -> None:
    """Write the page.

    Args:
        comparison: the comparison.
        path: path of the file.
        seed: seed of the bootstrap, which the page states.
        command: the command that makes this page again, which it states.
    """
    styles = appearance.styles(comparison.algorithms)
    charts = Charts(styles)
    # Everything is escaped, except Plotly's JavaScript, and the plots, which Plotly itself escapes.
    template = make_environment(autoescape=True).get_template(TEMPLATE)
    text = template.render(
        comparison=comparison,
        findings=findings(comparison),
        styles=styles,
        records=sum(len(entry.group.records) for task in comparison.tasks for entry in task.entries),
        tasks=[task_parts(task, charts) for task in comparison.tasks],
        aggregate=comparison.aggregate
        and {"profile": charts.profile(comparison.aggregate)} | pair_parts(comparison.aggregate.pairs),
        metrics=GEOMETRY,
        seed=seed,
        command=command,
        again=commands([entry.group for task in comparison.tasks for entry in task.by_name]),
        program=charts.program,
    )
    with replacing(path) as file:
        file.write(text.encode())


def task_parts(task: Task, charts: Charts) -> dict[str, Any]:
    """Return the template's variables for one task."""
    settings = {e.algorithm: settings_of(e.group) for e in task.entries}
    machines: dict[str, dict[str, list[str]]] = {"versions": {}, "hardware": {}}
    for entry in task.entries:
        for record in entry.group.records:
            note_machine(machines, record)
    return {
        "task": task,
        "steps": charts.learning_curves(task, "steps"),
        "seconds": any("seconds" in e.curves for e in task.entries)
        and charts.learning_curves(task, "seconds"),
        "scores": {
            score: charts.scores(task, score)
            for score in ("evaluation", "training")
            if any(score in entry.aggregates for entry in task.entries)
        },
        "geometry": {name: chart for name in GEOMETRY if (chart := charts.geometry(task, name))},
        "costs": sorted({name for entry in task.entries for name in entry.costs}),
        "settings": settings,
        "differs": appearance.differing(settings),
        "shared": set.intersection(*map(set, settings.values())),
        "machines": machines,
        **pair_parts(task.pairs),
    }


def settings_of(group: Group) -> dict[str, Any]:
    """Return the settings of a group's runs; one that differs between them has all its values, as text."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for record in group.records for name in record.settings):
        values = [record.settings.get(name, appearance.NO_NUMBER) for record in group.records]
        texts = list(dict.fromkeys(map(str, values)))
        found[name] = values[0] if len(texts) == 1 else " / ".join(texts)
    return found | {"n_timesteps": group.budget}


def pair_parts(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Return the pairs to show, and the others as `more_pairs` if there are more than `MOST_PAIRS`."""
    best = [pair for pair in pairs if pair.first == pairs[0].first]
    shown = best if len(pairs) > MOST_PAIRS else list(pairs)
    return {"pairs": shown, "more_pairs": [pair for pair in pairs if pair not in shown]}


def note_machine(machines: dict[str, dict[str, list[str]]], record: RunRecord) -> None:
    """Add a run to `machines`, {"versions" or "hardware": {text: labels of the runs that have it}}."""
    for kind, found in machines.items():
        named = getattr(record, kind)
        text = ", ".join(f"{name} {value}" for name, value in named.items()) or "not recorded"
        found.setdefault(text, []).append(f"{appearance.label(record.algorithm)} {record.seed}")
