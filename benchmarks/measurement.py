"""Results of the speed benchmarks: medians, ratios, goals, and the conditions of the measurement."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch

from experiments.settings.provenance import hardware, versions

PEER_PACKAGES = ("sb3-contrib", "tianshou", "envpool")


def environment() -> dict[str, Any]:
    """Return date, hardware, load, threads and versions."""
    found = versions()
    for package in PEER_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        **hardware(),
        "memory_gib": round(memory_gib(), 1),
        "torch_threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
        "versions": found,
    }


def memory_gib() -> float:
    """Return the machine's memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@dataclass(frozen=True)
class Ratio:
    """How much larger one series is than another, measured in the same rounds.

    Attributes:
        of_medians: the ratio of the two medians.
        of_rounds: the median of the rounds' ratios, which is insensitive to drift of the machine.
    """

    of_medians: float
    of_rounds: float

    @classmethod
    def between(cls, larger: list[float], smaller: list[float]) -> "Ratio":
        """Return larger / smaller.

        Raises:
            ValueError: the series have different numbers of rounds.
        """
        pairs = [a / b for a, b in zip(larger, smaller, strict=True)]
        return cls(median(larger) / median(smaller), median(pairs))

    def __str__(self) -> str:
        return f"{self.of_medians:.2f}x (per round {self.of_rounds:.2f}x)"


@dataclass(frozen=True)
class Goal:
    """A number that should reach a bound, or not exceed it.

    Attributes:
        text: what is compared with what.
        measured: the number.
        bound: the number's bound.
        unit: the unit of both numbers.
        at_most: whether the bound is an upper bound.
    """

    text: str
    measured: float
    bound: float
    unit: str = "x"
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Return whether the number is within the bound."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        relation = "≤" if self.at_most else "≥"
        verdict = "reached" if self.reached else "MISSED"
        return (
            f"goal: {self.text} {relation} {self.bound:g}{self.unit}, "
            f"measured {self.measured:.3g}{self.unit}: {verdict}"
        )


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; the first row's keys are the header."""
    if not rows:
        return "(nothing was measured)"
    header = list(rows[0])
    lines = [[str(name) for name in header], *([_text(row.get(name)) for name in header] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def best(series: dict[str, list[float]], lowest: bool = False) -> str:
    """Return the name with the highest (or lowest) median; if several are equal, the first."""
    return (min if lowest else max)(series, key=lambda name: median(series[name]))


def progress(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def report(title: str, arguments: Any, sections: dict[str, list[dict[str, Any]]], goals: list[Goal]) -> None:
    """Print Markdown tables with the goals, and write them as JSON to `arguments.out`.

    Args:
        title: the benchmark's title.
        arguments: a dataclass with an attribute `out`, a path or None.
        sections: {heading of a table: rows}.
        goals: the benchmark's goals.
    """
    measured_with = environment()
    for heading, rows in sections.items():
        print(f"\n### {heading}\n\n{markdown_table(rows)}")
    print("\n" + "\n".join(f"* {goal}" for goal in goals) if goals else "\nno goal was checked")
    found = measured_with["versions"]
    print(
        f"\n{measured_with['date']}, {measured_with['cpu']}, {measured_with['cores']} cores, GPU: "
        f"{measured_with['gpu'] or 'none'}, load {measured_with['load_average'][0]}; "
        + ", ".join(f"{name} {number}" for name, number in found.items())
    )
    if arguments.out is not None:
        document = {
            "benchmark": title,
            "arguments": asdict(arguments) if is_dataclass(arguments) else arguments,
            "environment": measured_with,
            "sections": sections,
            "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=2, default=str, ensure_ascii=False) + "\n")
