"""Print the table of returns of docs/results.md from `benchmarks/returns/`, and draw its learning curves.

    python benchmarks/returns_table.py           # prints Markdown; writes docs/returns.png

A cell has the interquartile mean (IQM) over seeds of the mean deterministic evaluation return, and its 95 %
interval (`experiments.report.statistics.bootstrap_interval`). Cells of fewer than three seeds list the seeds
instead. This needs the `figures` extra.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.report.statistics import bootstrap_interval, iqm

ROWS = Path(__file__).parent / "returns"
FIGURE = Path(__file__).parents[1] / "docs" / "returns.png"
TASKS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Swimmer-v5", "Humanoid-v5")
ALGORITHMS = {  # folder: (name, colour); colours that colour-blind readers can distinguish
    "trpo": ("TRPO", "#d55e00"),
    "npg": ("NPG", "#0072b2"),
    "acktr": ("ACKTR", "#009e73"),
    "vpg": ("VPG", "#8c8c8c"),
    "contrib-trpo": ("sb3-contrib's TRPO", "#cc79a7"),
    "sb3-ppo": ("SB3's PPO", "#000000"),
    "sb3-a2c": ("SB3's A2C", "#e69f00"),
}
MIN_SEEDS = 3
BUDGET = 1_000_000


@dataclass(frozen=True)
class Run:
    """One stored run: returns are in units of the task's reward."""

    seed: int
    evaluation: float
    training: float
    kl_exceeded: int | None
    curve: np.ndarray
    """(points, 2): environment steps and the mean return of the last 100 training episodes."""


def read(path: Path) -> Run | None:
    """Return the run stored in a file, or None if its budget was not that of the table."""
    row = json.loads(path.read_text(encoding="utf-8"))
    curve = np.array(row["curve"], dtype=float)
    if curve.ndim == 1:  # peers: at equal distances
        curve = np.column_stack([np.arange(1, len(curve) + 1) * row["steps"] / len(curve), curve])
    if not BUDGET <= curve[-1, 0] <= 1.1 * BUDGET:
        return None
    exceeded = row.get("kl_exceeded")
    return Run(
        int(path.stem.removeprefix("seed-")),
        float(np.mean(row["evaluation"])),
        row["training_return"],
        None if exceeded in (None, "") else int(float(exceeded)),
        curve,
    )


def read_all() -> dict[tuple[str, str], list[Run]]:
    """Return the stored runs, by task and algorithm, in the order of their seeds."""
    runs = defaultdict(list)
    for path in ROWS.glob("*/*/seed-*.json"):
        if run := read(path):
            runs[path.parent.name, path.parents[1].name].append(run)
    return {key: sorted(found, key=lambda run: run.seed) for key, found in runs.items()}


def cell(returns: list[float]) -> str:
    """Return the IQM of one return per seed with its interval, or the returns if they are few."""
    if len(returns) < MIN_SEEDS:
        return ", ".join(f"{value:.0f}" for value in returns).replace("-", "\N{MINUS SIGN}")
    interval = bootstrap_interval(iqm, [np.array(returns)], generator=np.random.default_rng(0))
    text = f"**{interval.estimate:.0f}** [{interval.low:.0f}, {interval.high:.0f}] ({len(returns)})"
    return text.replace("-", "\N{MINUS SIGN}")


def table(runs: dict[tuple[str, str], list[Run]], field: str) -> str:
    """Return the Markdown table of one field of `Run`: a row per task, a column per algorithm with runs."""
    present = [name for name in ALGORITHMS if any(algorithm == name for _, algorithm in runs)]
    lines = [
        " | ".join(["| task", *(ALGORITHMS[name][0] for name in present)]) + " |",
        "|---" * (len(present) + 1) + "|",
    ]
    for task in TASKS:
        cells = [cell([getattr(run, field) for run in runs.get((task, name), [])]) for name in present]
        lines.append(" | ".join([f"| {task}", *cells]) + " |")
    return "\n".join(lines)


def exceeded(runs: dict[tuple[str, str], list[Run]]) -> str:
    """Return how often a step's KL was above 2δ, per algorithm that counts it."""
    counts: dict[str, list[int]] = defaultdict(list)
    for (_, algorithm), found in runs.items():
        counts[algorithm] += [run.kl_exceeded for run in found if run.kl_exceeded is not None]
    return "; ".join(
        f"{ALGORITHMS[name][0]} {sum(counts[name])} in {len(counts[name])} runs"
        for name in ALGORITHMS
        if counts[name]
    )


def draw(runs: dict[tuple[str, str], list[Run]]) -> None:
    """Draw the training curves: one panel per task, one thin line per seed and one line per mean."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    drawn: dict[str, Any] = {}
    for ax, task in zip(axes.flat, TASKS, strict=True):
        for name, (label, colour) in ALGORITHMS.items():
            found = runs.get((task, name), [])
            if not found:
                continue
            first = max(run.curve[0, 0] for run in found)
            steps = np.linspace(first, BUDGET, 200)
            curves = np.array([np.interp(steps, *run.curve.T) for run in found])
            ax.plot(steps / 1e6, curves.T, color=colour, lw=0.6, alpha=0.35)
            (drawn[label],) = ax.plot(steps / 1e6, curves.mean(0), color=colour, lw=2)
        ax.set_title(task, fontsize=11)
        ax.set_xlabel("million environment steps")
        ax.set_ylabel("mean return of 100 training episodes", fontsize=8)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    ordered = [label for label, _ in ALGORITHMS.values() if label in drawn]
    figure.legend(
        [drawn[label] for label in ordered], ordered, loc="outside upper center", ncols=len(ordered)
    )
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Print the tables and draw the figure."""
    runs = read_all()
    print("Evaluation\n\n" + table(runs, "evaluation"))
    print("\nTraining return\n\n" + table(runs, "training"))
    print("\nSteps with a KL above 2δ: " + exceeded(runs))
    draw(runs)


if __name__ == "__main__":
    main()
