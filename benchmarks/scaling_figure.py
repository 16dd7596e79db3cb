"""Draw the model of scaling.py: weak efficiency and strong speed-up on up to 1024 ranks."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from scaling_model import LEAST_EFFICIENCY, RANKS, Link, Update

# Okabe and Ito (2008), "Color universal design".
COLOURS = ("#000000", "#0072b2", "#d55e00", "#cc79a7", "#009e73")
STYLES = {"ring": "-", "tree": "--"}


def draw(
    updates: Mapping[str, Update],
    links: Mapping[str, Mapping[str, Link]],
    weak: int,
    strong: int,
    path: Path,
) -> None:
    """Write a figure with a column per latency.

    Args:
        updates: {agent: its update}.
        links: {latency as text: {"ring" and "tree": link}}.
        weak: states per rank in the upper row.
        strong: states in all in the lower row.
        path: the figure's file.

    Raises:
        ImportError: matplotlib is missing.
    """
    # Not pyplot, which keeps every figure in memory and selects a GUI backend.
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(11, 6.5), layout="constrained")
    rows = figure.subplots(2, len(links), sharex=True, sharey="row", squeeze=False)
    for column, (latency, kinds) in enumerate(links.items()):
        upper, lower = rows[0][column], rows[1][column]
        for kind, link in kinds.items():
            for (agent, update), colour in zip(updates.items(), COLOURS, strict=False):
                style = {"color": colour, "linestyle": STYLES[kind], "linewidth": 1.5}
                label = agent if kind == "ring" else None
                upper.plot(RANKS, [update.weak(weak, link, W) for W in RANKS], label=label, **style)
                lower.plot(RANKS, [update.strong(strong, link, W) for W in RANKS], **style)
        upper.axhline(LEAST_EFFICIENCY, color="#888888", linewidth=0.8)
        lower.plot(RANKS, RANKS, color="#888888", linewidth=0.8)
        upper.set(title=f"latency {latency}", xscale="log", ylim=(0, 1.05))
        lower.set(xscale="log", yscale="log", ylim=(0.2, RANKS[-1]), xlabel="ranks W")
        for axes in (upper, lower):
            axes.grid(alpha=0.25)
            axes.set_xticks(RANKS[::2], [str(W) for W in RANKS[::2]])
            axes.minorticks_off()
    rows[0][0].set_ylabel(f"weak efficiency, {weak} steps per rank")
    rows[1][0].set_ylabel(f"strong speed-up, {strong} steps in all")
    rows[0][0].legend(fontsize=8)
    figure.suptitle("modelled time per update: solid, gloo (ring); dashed, a tree as in NCCL", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
