"""The style of algorithms and the format of numbers in a report."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.registry import REGISTRY
from experiments.report.statistics import Interval

# Colours of Okabe and Ito (2008), "Color universal design", which colour-blind readers can distinguish, and
# matplotlib dashes for greyscale prints. Those of our agents are in `agents.registry`.
PEER_STYLES: dict[str, tuple[str, Any]] = {
    "sb3:ppo": ("#cc79a7", (0, (8, 2))),
    "sb3:a2c": ("#e69f00", (0, (3, 1.5, 1, 1.5, 1, 1.5))),
    "contrib:trpo": ("#56b4e9", (0, (2.5, 1.5))),
}
# For algorithms without a style of their own, after the unused styles of the others. From Paul Tol's "muted".
FREE_STYLES: tuple[tuple[str, Any], ...] = (
    ("#882255", (0, (1, 1, 4, 1))),
    ("#999933", (0, (6, 3))),
    ("#332288", (0, (3, 3))),
    ("#aa4499", (0, (2, 1, 2, 4))),
)
DARKEST = 0.08  # relative luminance of the darkest colour that is legible on a dark page
NO_NUMBER = "\N{EN DASH}"


@dataclass(frozen=True)
class Style:
    """The style of one algorithm.

    Attributes:
        label: displayed name of the algorithm.
        colour: colour as "#rrggbb".
        dashes: line style of matplotlib.
    """

    label: str
    colour: str
    dashes: Any

    @property
    def plotly_dash(self) -> str:
        """The dashes in Plotly's format, for lines that are two pixels wide."""
        return "solid" if self.dashes == "-" else ",".join(f"{2 * length:g}px" for length in self.dashes[1])

    @property
    def on_dark(self) -> str:
        """The colour for a dark page: a very dark one is mixed with white."""
        channels = [int(self.colour[i : i + 2], 16) for i in (1, 3, 5)]
        linear = [(channel / 255) ** 2.2 for channel in channels]
        if float(np.dot((0.2126, 0.7152, 0.0722), linear)) >= DARKEST:
            return self.colour
        return "#" + "".join(f"{round(0.2 * channel + 0.8 * 255):02x}" for channel in channels)

    def shade(self, opacity: float) -> str:
        """Return the colour in CSS as rgba(…), with this opacity."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity:g})"


def styles(algorithms: Iterable[str]) -> dict[str, Style]:
    """Return {algorithm: style}: the same one in every report, or an unused one if it has no style."""
    ours = {name: (entry.colour, entry.dashes) for name, entry in REGISTRY.items() if entry.colour}
    fixed: dict[str, tuple[Any, Any]] = ours | PEER_STYLES
    names = list(algorithms)
    free = [style for name, style in fixed.items() if name not in names] + list(FREE_STYLES)
    others = [name for name in names if name not in fixed]
    chosen = fixed | {name: free[k % len(free)] for k, name in enumerate(others)}
    return {name: Style(label(name), *chosen[name]) for name in sorted(names)}


def label(algorithm: str) -> str:
    """Return the displayed name of an algorithm, e.g. NPG for "npg"; that of "sb3:ppo" is unchanged."""
    if algorithm in REGISTRY:
        return REGISTRY[algorithm].label
    return algorithm if ":" in algorithm else algorithm.upper()


def number(value: float) -> str:
    """Return a number as text with about three significant digits."""
    if math.isnan(value):
        return NO_NUMBER
    size = abs(value)
    text = f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    if size >= 10_000:
        text = f"{value:,.0f}".replace(",", "\u202f")
    return text.replace("-", "\N{MINUS SIGN}")


def interval(value: Interval, write: Any = number) -> str:
    """Return "estimate [low, high]", or the estimate alone if the bounds are unknown."""
    if math.isnan(value.low):
        return f"{write(value.estimate)}"
    return f"{write(value.estimate)} [{write(value.low)}, {write(value.high)}]"


def probability(value: Interval) -> str:
    """Return a probability with its interval, with two decimals each."""
    return interval(value, lambda p: f"{p:.2f}")


def steps(value: float) -> str:
    """Return a number of environment steps as text, e.g. "12.5k", or "not reached" for inf."""
    if math.isinf(value):
        return "not reached"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


def enumeration(items: Iterable[str], word: str = "and") -> str:
    """Return "a", "a and b", or "a, b and c"; `word` replaces "and"."""
    *most, last = items
    return f"{', '.join(most)} {word} {last}" if most else last


def differing(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names whose values differ between owners.

    Args:
        values: {owner: {name: value}}.
    """
    names = dict.fromkeys(name for owned in values.values() for name in owned)
    return [name for name in names if len({str(owned.get(name, NO_NUMBER)) for owned in values.values()}) > 1]
