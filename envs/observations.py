"""Batched observations: an array (n, ...), or a dict or tuple of them, nested to any depth."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_arrays(function: Callable[..., Any], observations: Any, *others: Any) -> Any:
    """Apply a function to the arrays of nested observations; the result has the same nesting.

    Args:
        function: Takes an array of `observations`, and the array at the same place in each of `others`.
        observations: The observations.
        others: More values with the same nesting.
    """
    if isinstance(observations, dict):
        return {
            key: map_arrays(function, observations[key], *(o[key] for o in others)) for key in observations
        }
    if isinstance(observations, tuple):
        return tuple(map_arrays(function, *values) for values in zip(observations, *others, strict=True))
    return function(observations, *others)


def copy_observations(observations: Any) -> Any:
    """Return a copy that shares no memory with the original, which a vector environment may overwrite."""
    return map_arrays(np.array, observations)


def copy_row(observations: Any, index: int) -> Any:
    """Return a copy of one environment's observation."""
    return map_arrays(lambda array: array[index].copy(), observations)


def select_rows(observations: Any, which: NDArray[Any]) -> Any:
    """Return the rows at indices (k,) or under a mask (n,), as a batch (k, ...)."""
    return map_arrays(lambda array: np.asarray(array)[which], observations)


def replace_rows(observations: Any, which: NDArray[Any], rows: Any) -> None:
    """Write `rows` (k, ...) into the batch, in place.

    Args:
        observations: The batch, n rows.
        which: The k rows to replace: their indices (k,), or a mask (n,) with k true entries.
        rows: The new rows.
    """
    map_arrays(lambda array, new: array.__setitem__(which, new), observations, rows)
