"""A part of the GPU benchmark: its device, time budget and results."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from measurement import markdown_table, progress


class Part:
    """A running part.

    Args:
        title: what the part measures.
        device: the device to measure.
        dry_run: whether to use sizes that a CPU finishes in seconds.
        budget: seconds after which the part must not start new measurements.

    Attributes:
        tables: {heading: rows}. All rows of a table have the same keys.
        notes: what the reader has to know, e.g. which sizes were left out.
        failures: what was found to be wrong. A part with failures counts as failed.
        complete: whether everything was measured as planned.
    """

    def __init__(self, title: str, device: torch.device, *, dry_run: bool, budget: float):
        self.title = title
        self.device = device
        self.dry_run = dry_run
        self.budget = budget
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.complete = True
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds for which the part has been running."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float:
        """Return the seconds left of the budget; negative once it is exceeded."""
        return self.budget - self.seconds

    def out_of_time(self, skipped: str) -> bool:
        """Return whether the budget is used up; if so, add a note about what is skipped."""
        if self.seconds_left > 0:
            return False
        self.complete = False
        self.note(f"stopped: the budget of {self.budget:.0f} s is used up; not measured: {skipped}")
        return True

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table."""
        self.tables.setdefault(table, []).append(row)
        values = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        progress(f"  {table}: " + ", ".join(values))

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
        progress(f"  note: {text}")

    def fail(self, text: str) -> None:
        """Add a failure; the part continues."""
        self.failures.append(text)
        progress(f"  FAILED: {text}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Turn an exception inside the block into a failure, so that the part continues."""
        try:
            yield
        except Exception:
            self.fail(f"{what}: {traceback.format_exc()}")

    def text(self) -> str:
        """Return tables, notes and failures as Markdown."""
        sections = [f"{heading}:\n\n{markdown_table(rows)}" for heading, rows in self.tables.items()]
        lines = [f"* note: {text}" for text in self.notes] + [f"* FAILED: {text}" for text in self.failures]
        return "\n\n".join(sections + (["\n".join(lines)] if lines else []))

    def document(self) -> dict[str, Any]:
        """Return the results as plain data."""
        return {
            "title": self.title,
            "device": str(self.device),
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 2),
            "budget": self.budget,
            "tables": self.tables,
            "notes": self.notes,
            "failures": self.failures,
        }
