"""Draw docs/tuning.png from the searches in `benchmarks/returns/search.jsonl`: what mattered on three tasks.

    python benchmarks/tuning_figure.py

This needs the `figures` extra.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

SEARCH = Path(__file__).parent / "returns" / "search.jsonl"
FIGURE = Path(__file__).parents[1] / "docs" / "tuning.png"
COLOURS = ("#8c8c8c", "#0072b2", "#d55e00")
# One panel each: title, task, budget in steps, {name of the runs in the file: label}.
PANELS: list[tuple[str, str, int, dict[str, str]]] = [
    (
        "Walker2d: λ of the critic's targets",
        "Walker2d-v5",
        300_000,
        {"base": "0.95, as for advantages", "lamc.99": "critic_lambda=0.99"},
    ),
    (
        "Swimmer: exploration",
        "Swimmer-v5",
        200_000,
        {
            "sw20lamc.99std0": "independent, log_std_init 0",
            "wide": "independent, log_std_init 0.5",
            "sde": "gSDE, constant for 8 steps",
        },
    ),
    (
        "Ant: horizon of advantages",
        "Ant-v5",
        1_000_000,
        {
            "ant-1kl.06": r"$\gamma$ 0.99, λ 0.95",
            "g98l90": r"$\gamma$ 0.98, λ 0.9",
            "g98l80": r"$\gamma$ 0.98, λ 0.8; log_std_init -1.5",
        },
    ),
]


def main() -> None:
    """Draw one thin line per run."""
    runs = [json.loads(line) for line in SEARCH.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 4.2), layout="constrained")
    for ax, (title, task, budget, names) in zip(axes, PANELS, strict=True):
        for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
            found: list[dict[str, Any]] = [
                run for run in runs if (run["env"], run["steps"], run["name"]) == (task, budget, name)
            ]
            found.sort(key=lambda run: run["seed"])
            for i, run in enumerate(found):
                steps, returns = list(zip(*run["curve"], strict=True))[:2]
                seeds = ", ".join(str(other["seed"]) for other in found)
                text = f"{label} (seed{'s' * (len(found) > 1)} {seeds})" if i == 0 else None
                ax.plot([step / 1e3 for step in steps], returns, color=colour, lw=1.5, label=text)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("thousand environment steps")
        ax.set_ylabel("mean return of 20 training episodes", fontsize=8)
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.15 * (high - low), high)  # the legend is below the curves
        ax.legend(fontsize=8, frameon=False, loc="lower right")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
