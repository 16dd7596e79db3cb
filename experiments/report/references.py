"""Read the reference returns that make scores of different tasks comparable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.settings.config_file import config_file


@dataclass(frozen=True)
class Reference:
    """The returns that normalise a task's scores.

    Attributes:
        random: return of a uniformly random policy, whose normalised score is 0.
        reference: return whose normalised score is 1.
        random_source: source of `random`.
        reference_source: source of `reference`.
    """

    random: float
    reference: float
    random_source: str
    reference_source: str

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """Return normalised scores, in the shape of `returns`."""
        return (returns - self.random) / (self.reference - self.random)


def read_references(path: Path | None = None) -> dict[str, Reference]:
    """Return {environment: reference}.

    Args:
        path: path of the YAML file; None for configs/references.yaml.

    Raises:
        ValueError: an entry lacks a number or its source, or both numbers are equal.
    """
    path = path or config_file("references.yaml")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: read_reference(entry, f"{path} ({name})") for name, entry in document.items()}


def read_reference(entry: Mapping[str, Any], place: str) -> Reference:
    """Check one entry of the file and return it.

    Raises:
        ValueError: see `read_references`.
    """
    numbers = [entry.get(key) for key in ("random", "reference")]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise ValueError(f"{place} must have numbers random and reference, got {numbers}")
    if entry["random"] == entry["reference"]:
        raise ValueError(f"{place} has one number for random and reference, {entry['random']}")
    sources = [entry.get(key) for key in ("random_source", "reference_source")]
    if not all(isinstance(source, str) and source for source in sources):
        raise ValueError(f"{place} must say where its numbers come from: random_source and reference_source")
    return Reference(float(entry["random"]), float(entry["reference"]), *map(str, sources))
