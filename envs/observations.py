"""Batched observations: an array (n, ...), or a dict or tuple of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def copied(observations: Any) -> Any:
    """Returns a copy that shares no memory: a vector environment may write into its own again."""
    if isinstance(observations, dict):
        return {key: copied(value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(copied(value) for value in observations)
    return np.array(observations)


def row(observations: Any, index: int) -> Any:
    """Returns a copy of one environment's observation."""
    if isinstance(observations, dict):
        return {key: row(value, index) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(row(value, index) for value in observations)
    return observations[index].copy()


def replace_rows(observations: Any, which: NDArray[Any], rows: Any) -> None:
    """Writes `rows` (k, ...) into the batch, in place.

    Args:
        observations: The batch, n rows.
        which: The k rows to replace: their indices (k,), or a mask (n,) with k trues.
        rows: What comes in their place.
    """
    if isinstance(observations, dict):
        for key, value in observations.items():
            replace_rows(value, which, rows[key])
    elif isinstance(observations, tuple):
        for value, part in zip(observations, rows, strict=True):
            replace_rows(value, which, part)
    else:
        observations[which] = rows


def rows_of(observations: Any, which: NDArray[Any]) -> Any:
    """Returns the rows at indices (k,) or under a mask (n,), as a batch (k, ...)."""
    if isinstance(observations, dict):
        return {key: rows_of(value, which) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(rows_of(value, which) for value in observations)
    return np.asarray(observations)[which]
