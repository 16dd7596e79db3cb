"""Draw a comparison's figures for a paper: 3.3 or 6.8 inches wide, with text of 8 points."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.extras import needs

with needs("report"):
    import matplotlib
    from matplotlib.axes import Axes

    # Not pyplot, which keeps every figure in memory and selects a GUI backend.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator
from experiments.report.appearance import Style, styles
from experiments.report.comparison import Comparison
from experiments.report.curves import GEOMETRY, Curve
from experiments.report.task_comparison import Task
from experiments.run.atomic_file import replacing

COLUMN, PAGE = 3.3, 6.8  # inches
DOTS_PER_INCH = 200
LONGEST_TITLE = 30  # characters
RC_PARAMS: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "npg-toolkit",  # the same numbers give the same file
}


def write_figures(
    comparison: Comparison, out: Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> None:
    """Write every figure as PNG and SVG into a folder.

    Args:
        comparison: the comparison.
        out: the folder.
        progress: wraps the iterable of figures, e.g. in a progress bar.
    """
    with matplotlib.rc_context(RC_PARAMS):
        for name, figure in progress(figures(comparison)):
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is final, and slow to compute again
            with replacing(out / f"{name}.png") as file:
                figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
            with replacing(out / f"{name}.svg") as file:
                figure.savefig(file, format="svg", metadata={"Date": None})


def figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Yield names and figures."""
    style_of = styles(comparison.algorithms)
    yield "learning_curves", learning_curves(comparison, style_of, "steps")
    if any("seconds" in entry.curves for task in comparison.tasks for entry in task.entries):
        yield "learning_curves_wall_clock", learning_curves(comparison, style_of, "seconds")
    yield "scores", scores(comparison, style_of)
    if comparison.aggregate is not None:
        yield "performance_profile", profile(comparison, style_of)
    for task in comparison.tasks:
        if any(name in entry.curves for entry in task.entries for name in GEOMETRY):
            name = task.environment.replace("/", "-").replace(":", "-")
            yield f"geometry_{name}", geometry(task, style_of)


def panels(count: int, height: float, most: int = 3, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes: one per column width, or up to `most` per page width."""
    columns = min(count, most)
    rows = -(-count // columns)
    size = (COLUMN if count == 1 else PAGE, rows * height + 0.25)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in grid[count:]:
        unused.remove()
    return figure, list(grid[:count])


def legend(figure: Figure, axes: list[Axes]) -> None:
    """Add one legend for all axes, below them."""
    handles = {name: line for ax in axes for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    if "threshold" in handles:  # drawn first, since it is behind the others, but last in the legend
        handles["threshold"] = handles.pop("threshold")
    rows = -(-len(handles) // (3 if figure.get_figwidth() < PAGE else 7))
    columns = -(-len(handles) // rows)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handlelength=2.8,
        columnspacing=1.4,
    )


def panel_title(task: Task) -> str:
    """Return the environment's id, without its beginning if it is too long for a panel."""
    name = task.environment
    return name if len(name) <= LONGEST_TITLE else f"…{name[1 - LONGEST_TITLE :]}"


def draw(ax: Axes, curve: Curve, style: Style) -> None:
    """Draw a curve with its band, or with the curves of single runs."""
    if curve.runs.size:
        ax.plot(curve.x, curve.runs.T, color=style.colour, alpha=0.45, linewidth=0.6)
    elif np.isfinite(curve.low).any():
        ax.fill_between(curve.x, curve.low, curve.high, color=style.colour, alpha=0.13, linewidth=0)
    ax.plot(curve.x, curve.estimate, color=style.colour, linestyle=style.dashes, label=style.label)


def learning_curves(comparison: Comparison, style_of: dict[str, Style], over: str) -> Figure:
    """Draw the training return over environment steps or seconds, one panel per task."""
    figure, axes = panels(len(comparison.tasks), 2.1)
    for ax, task in zip(axes, comparison.tasks, strict=True):
        if over == "steps" and task.threshold is not None:
            ax.axhline(task.threshold, color="#888888", linewidth=0.8, label="threshold")
        for entry in task.by_name:
            if over in entry.curves:
                draw(ax, entry.curves[over], style_of[entry.algorithm])
        ax.set(
            title=panel_title(task), xlabel="environment steps" if over == "steps" else "training time [s]"
        )
        format_steps(ax)
    axes[0].set_ylabel("training return")
    legend(figure, axes)
    return figure


def scores(comparison: Comparison, style_of: dict[str, Style]) -> Figure:
    """Draw the IQM of the primary score, its interval unless there are few seeds, and every seed.

    There is one panel per task.
    """
    most = max(len(task.entries) for task in comparison.tasks)
    figure, axes = panels(len(comparison.tasks), 0.75 + 0.22 * most)
    for ax, task in zip(axes, comparison.tasks, strict=True):
        for row, entry in enumerate(reversed(task.entries)):
            style, found = style_of[entry.algorithm], entry.aggregates[task.primary]["IQM"]
            seeds = entry.scores[task.primary]
            ax.plot(seeds, np.full(len(seeds), row), "|", color=style.colour, alpha=0.55, markersize=7)
            if np.isfinite(found.low) and not entry.group.few:
                ax.plot([found.low, found.high], [row, row], color=style.colour, linewidth=1.8)
            ax.plot(found.estimate, row, "o", color=style.colour, markersize=4.5)
        names = [style_of[entry.algorithm].label for entry in reversed(task.entries)]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        name = "deterministic evaluation" if task.primary == "evaluation" else "training return"
        ax.set(title=panel_title(task), xlabel=name)
    return figure


def profile(comparison: Comparison, style_of: dict[str, Style]) -> Figure:
    """Draw the performance profiles."""
    assert comparison.aggregate is not None
    figure, axes = panels(1, 2.2)
    for name, curve in sorted(comparison.aggregate.profiles.items()):
        draw(axes[0], curve, style_of[name])
    axes[0].set(xlabel="normalised return τ", ylabel="fraction of runs above τ", ylim=(-0.02, 1.02))
    legend(figure, axes)
    return figure


def geometry(task: Task, style_of: dict[str, Style]) -> Figure:
    """Draw the metrics of `GEOMETRY`, one panel each."""
    names = [name for name in GEOMETRY if any(name in entry.curves for entry in task.entries)]
    figure, axes = panels(len(names), 1.85, most=2, sharex=True)
    for ax, name in zip(axes, names, strict=True):
        for entry in task.by_name:
            if name in entry.curves:
                draw(ax, entry.curves[name], style_of[entry.algorithm])
        ax.set_title(GEOMETRY[name].title)
        if GEOMETRY[name].logarithmic:
            ax.set_yscale("log")
        format_steps(ax)
    for ax in axes[-2:]:
        ax.set_xlabel("environment steps")
        ax.tick_params(labelbottom=True)
    figure.suptitle(task.environment, fontsize=9)
    legend(figure, axes)
    return figure


def format_steps(ax: Axes) -> None:
    """Format an axis of environment steps."""
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
