"""Values as plain data: what a file can hold and give back without running any code."""

from typing import Any

import numpy as np

# None, bool, int, float, str, arrays of numbers; lists of plain data, and dicts of it with str for keys.
Plain = Any

_TUPLE, _SCALAR = "(tuple)", "(scalar)"  # the one key of a dict that stands for such a value


def to_plain(value: Any, name: str = "value") -> Plain:
    """Returns a copy of a value as plain data, from which `from_plain` makes the value again.

    NumPy's scalars keep their type, as an expression with an ``np.float32`` rounds otherwise than
    the same with a ``float``.

    Args:
        value: What plain data may be, or tuples and NumPy's scalars, in any nesting.
        name: What to call it in an error.

    Raises:
        TypeError: If there is anything else in it.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        array = np.array(value)
        return array if isinstance(value, np.ndarray) else {_SCALAR: array}
    if kind is list:
        return [to_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if kind is tuple:
        return {_TUPLE: [to_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]}
    if kind is dict and all(type(key) is str and key not in (_TUPLE, _SCALAR) for key in value):
        return {key: to_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"expected {name} to be plain data (None, bool, int, float, str, arrays of numbers, and lists, "
        f"tuples and dicts with str keys of them), got {kind.__module__}.{kind.__qualname__}."
    )


def from_plain(plain: Plain) -> Any:
    """Returns the value that `to_plain` was given, in memory of its own."""
    if isinstance(plain, np.ndarray):
        return np.array(plain)
    if isinstance(plain, list):
        return [from_plain(item) for item in plain]
    if isinstance(plain, dict):
        if list(plain) == [_SCALAR]:
            return plain[_SCALAR][()]
        if list(plain) == [_TUPLE]:
            return tuple(from_plain(item) for item in plain[_TUPLE])
        return {key: from_plain(item) for key, item in plain.items()}
    return plain
