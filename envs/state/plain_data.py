"""Plain data: values that a file can store and restore without running any code."""

from typing import Any

import numpy as np

# None, bool, int, float, str, numeric arrays and NumPy scalars; lists, tuples and str-keyed dicts of them.
Plain = Any

_TUPLE, _SCALAR = "(tuple)", "(scalar)"  # version 0.1 stored such a value as a dict with this one key


def copy_plain(value: Any, name: str = "value") -> Plain:
    """Return a deep copy of plain data.

    NumPy scalars keep their type, since expressions with an ``np.float32`` round differently from expressions
    with a ``float``.

    Args:
        value: Plain data.
        name: What to call the value in error messages.

    Raises:
        TypeError: If the value contains anything other than plain data.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        return value if isinstance(value, np.generic) else np.array(value)
    if kind in (list, tuple):
        return kind(copy_plain(item, f"{name}[{index}]") for index, item in enumerate(value))
    if kind is dict and all(type(key) is str and key not in (_TUPLE, _SCALAR) for key in value):
        return {key: copy_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"expected {name} to be plain data (None, bool, int, float, str, arrays of numbers, and lists, "
        f"tuples and dicts with str keys of them), got {kind.__module__}.{kind.__qualname__}."
    )


def convert_tags(value: Plain) -> Plain:
    """Convert the tagged dicts in which version 0.1 stored tuples and scalars of a state."""
    if isinstance(value, list):
        return [convert_tags(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == [_SCALAR]:
        return value[_SCALAR][()]
    items = {key: convert_tags(item) for key, item in value.items()}
    return tuple(items[_TUPLE]) if list(items) == [_TUPLE] else items
