"""The files in a run folder, read with suspicion.

Nothing is executed: YAML by its safe loader, CSV and JSON as text, and never a model or a pickle.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.run import plain_yaml

STEPS = "time/total_timesteps"
RETURN = "rollout/ep_rew_mean"
SECONDS = ("time/seconds", "time/time_elapsed")  # the first that is there; SB3's own is in whole seconds
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,99}")  # of an environment or an algorithm; names files too


def read_text(path: Path) -> str:
    """Return a file's text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"corrupt: {path.name} is not text") from None


def read_config(text: str) -> dict[str, Any]:
    """Return the content of config.yaml, with the keys that every run has checked."""
    try:
        config = plain_yaml.parse(text, "config.yaml")
    except ValueError as error:
        raise ValueError(f"corrupt: {error}") from None
    for key in ("algo", "env"):
        if not (isinstance(config.get(key), str) and NAME.fullmatch(config[key])):
            raise ValueError(f"corrupt: {key} in config.yaml must be a name, got {config.get(key)!r}")
    for key, least in (("seed", 0), ("n_timesteps", 1)):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"corrupt: {key} in config.yaml must be an integer ≥ {least}, got {value!r}")
    return config


def flattened(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their names, those of nested mappings as a.b; `hyperparameters.` is left away."""
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict) and entry:
            yield from flattened(entry, "" if name == "hyperparameters" else f"{name}.")
        else:
            yield name, entry


def named_texts(value: Any) -> dict[str, str]:
    """Return a mapping with everything in it as text; empty where it is none."""
    return {str(key): str(entry) for key, entry in value.items()} if isinstance(value, dict) else {}


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of progress.csv, nan where a cell is empty or a column has no number there.

    Raises:
        ValueError: steps, return or time are missing or not finite, or steps do not grow.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"corrupt: progress.csv is not CSV ({error})") from None
    if not rows:
        raise ValueError("corrupt: progress.csv has no rows")
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("corrupt: progress.csv has rows that are longer or shorter than its first")
    clock = next((name for name in SECONDS if name in rows[0]), SECONDS[0])
    for name in (STEPS, RETURN, clock):
        if name not in rows[0]:
            raise ValueError(f"corrupt: progress.csv has no column {name}; it has {', '.join(rows[0])}")
        for row in rows:
            if row[name] and not math.isfinite(number(row[name])):
                raise ValueError(f"corrupt: {name} in progress.csv is {row[name]!r}, not a finite number")
    log = {name: np.array([number(row[name]) for row in rows]) for name in rows[0]}
    if np.isfinite(log[RETURN] + log[STEPS] + log[clock]).sum() < 2:
        raise ValueError(
            f"too short: progress.csv has fewer than two rows with {STEPS}, {RETURN} and {clock}; "
            "train for more steps"
        )
    if not np.isfinite(log[STEPS]).all() or (np.diff(log[STEPS]) < 0).any():
        raise ValueError(f"corrupt: {STEPS} in progress.csv is missing in a row, or decreases")
    return log


def number(text: str) -> float:
    """Return a cell as a number, nan where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_evaluation(path: Path) -> np.ndarray:
    """Return the returns in evaluation.json, (episodes,).

    Raises:
        ValueError: the file is not JSON, or has no finite returns where it has some.
    """
    try:
        document = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"corrupt: evaluation.json is not JSON ({error})") from None
    returns = document.get("returns") if isinstance(document, dict) else None
    if not isinstance(returns, list):
        raise ValueError("corrupt: evaluation.json must have a list of returns, as train.py writes it")
    if not all(isinstance(value, int | float) and abs(value) < math.inf for value in returns):
        raise ValueError("corrupt: evaluation.json has returns that are not finite numbers")
    return np.array(returns, dtype=float)
