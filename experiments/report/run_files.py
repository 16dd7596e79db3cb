"""Read config.yaml, progress.csv and evaluation.json of a run, and check what the report needs of them.

No code in them is executed: YAML is read by its safe loader, CSV and JSON as text.
"""

import math
import re
from collections.abc import Container
from typing import Any

import numpy as np

from experiments.run import plain_yaml
from experiments.run.csv_log import read_table
from experiments.run.run_folder import RunFolder

STEPS = "time/total_timesteps"
RETURN, LENGTH = "rollout/ep_rew_mean", "rollout/ep_len_mean"
SECONDS = ("time/seconds", "time/time_elapsed")  # the first that exists; the second has whole seconds only
LARGEST = 1e38  # largest number that is read, so that sums of squares are finite in float64
LARGEST_STEP = 2**53  # not every larger integer is a float
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,99}")  # environment or algorithm; used in file names, too


def read_document(folder: RunFolder) -> dict[str, Any]:
    """Return the content of config.yaml.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not plain YAML, or a required key is missing or invalid.
    """
    try:
        document = plain_yaml.read(folder.config)
    except ValueError as error:
        raise ValueError(f"corrupt: {error}") from None
    for key in ("algo", "env"):
        if not (isinstance(document.get(key), str) and NAME.fullmatch(document[key])):
            raise ValueError(f"corrupt: {key} in config.yaml must be a name, got {document.get(key)!r:.60}")
    for key, least in (("seed", 0), ("n_timesteps", 1)):
        value = document.get(key)
        if type(value) is not int or not least <= value <= LARGEST_STEP:
            raise ValueError(f"corrupt: {key} in config.yaml must be an integer ≥ {least}, got {value!r:.60}")
    return document


def read_log(folder: RunFolder) -> dict[str, np.ndarray]:
    """Return the columns of progress.csv; cells without a number are NaN.

    Raises:
        OSError: the file cannot be read.
        ValueError: steps, return or time are missing or not finite, or steps decrease.
    """
    try:
        table = read_table(folder.progress)
    except ValueError as error:
        raise ValueError(f"corrupt: progress.csv is not CSV ({error})") from None
    if len(table) < 2:
        raise ValueError("corrupt: progress.csv has no rows")
    if any(len(row) != len(table[0]) for row in table):
        raise ValueError("corrupt: progress.csv has rows that are longer or shorter than its first")
    cells = {name: column for name, *column in zip(*table, strict=True)}
    clock = clock_of(cells)
    if STEPS in cells and not {RETURN, LENGTH} & cells.keys():
        raise ValueError("too short: no episode ended in the training; train for more steps")
    for name in (STEPS, RETURN, clock):
        if name not in cells:
            raise ValueError(f"corrupt: progress.csv has no column {name}; it has {', '.join(cells):.200}")
        most = LARGEST_STEP if name == STEPS else LARGEST
        for cell in cells[name]:
            if cell and not abs(number(cell)) <= most:
                raise ValueError(
                    f"corrupt: {name} in progress.csv is {cell!r:.60}, not a finite number up to {most:g}"
                )
    log = {name: np.array([number(cell) for cell in column]) for name, column in cells.items()}
    for values in log.values():
        values[np.abs(values) > LARGEST] = math.nan
    if np.isfinite(log[RETURN] + log[STEPS] + log[clock]).sum() < 2:
        raise ValueError(
            f"too short: progress.csv has fewer than two rows with {STEPS}, {RETURN} and {clock}; "
            "train for more steps"
        )
    if not np.isfinite(log[STEPS]).all() or (np.diff(log[STEPS]) < 0).any():
        raise ValueError(f"corrupt: {STEPS} in progress.csv is missing in a row, or decreases")
    return log


def clock_of(columns: Container[str]) -> str:
    """Return the name of the column with the training time in seconds."""
    return next((name for name in SECONDS if name in columns), SECONDS[0])


def number(text: str) -> float:
    """Return the number in a cell; NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_returns(folder: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns (episodes,) in evaluation.json, and the costs (episodes, m), with m = 0 if none.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON, or its returns are missing, or a return or cost is not finite.
    """
    try:
        evaluation = folder.read_evaluation()
        returns, costs = evaluation.get("returns"), evaluation.get("costs", [])
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"corrupt: evaluation.json is not JSON ({error})") from None
    if not isinstance(returns, list):
        raise ValueError("corrupt: evaluation.json must have a list of returns, as train.py writes it")
    if not all(isinstance(value, int | float) and abs(value) <= LARGEST for value in returns):
        raise ValueError(
            f"corrupt: evaluation.json has returns that are not finite numbers up to {LARGEST:g}"
        )
    try:
        found = np.array(costs, dtype=float).reshape(len(costs), -1 if costs else 0)
    except (TypeError, ValueError):
        found = np.full((1, 1), math.nan)
    if not (np.abs(found) <= LARGEST).all():
        raise ValueError(f"corrupt: evaluation.json has costs that are not finite numbers up to {LARGEST:g}")
    return np.array(returns, dtype=float), found
