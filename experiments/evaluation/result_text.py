"""Show the result of an evaluation as text."""

from collections.abc import Mapping
from typing import Any

from experiments.cost_names import cost_names


def table(summary: dict[str, Any]) -> str:
    """Return the summary as a table of text."""
    lines = [f"  {'':8}{'return':>24}{'length':>24}"]
    for row in ("mean", "std", "iqm", "iqm 95 %", "median", "min", "max"):
        cells = []
        for name in ("return", "length"):
            value = summary[f"iqm_{name}_interval" if row == "iqm 95 %" else f"{row}_{name}"]
            if isinstance(value, list):
                cells.append("unknown" if None in value else f"{value[0]:.2f} to {value[1]:.2f}")
            else:
                cells.append(f"{value:.2f}")
        lines.append(f"  {row.replace('iqm', 'IQM'):8}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def cost_lines(result: Mapping[str, Any], limit: Any = None) -> list[str]:
    """Return a line per cost that the environment reported, with the mean sum per episode.

    Args:
        result: the result of an evaluation.
        limit: the run's cost_limit; None if it has none.
    """
    names = cost_names(len(result["costs"][0])) if "costs" in result else []
    limits = limit if isinstance(limit, list) else [limit]
    lines = []
    for i, name in enumerate(names):
        low, high = result[f"mean_{name}_interval"]
        text = f"  {name:8} {result[f'mean_{name}']:.2f} per episode"
        text += "" if None in (low, high) else f", 95 % interval {low:.2f} to {high:.2f}"
        lines.append(text + (f"; limit {limits[i]:g}" if i < len(limits) and limits[i] is not None else ""))
    return lines
