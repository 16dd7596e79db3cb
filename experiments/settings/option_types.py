"""The types of command-line options. Nothing here imports torch, so that --help is quick."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import tyro


def whole_number(text: str) -> int:
    """Return a whole number, e.g. 1000 of "1000" or "1e3".

    Raises:
        ValueError: the text is no whole number.
    """
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError, OverflowError):
        if (number := float(text)).is_integer():
            return int(number)
    raise ValueError(f"expected a whole number, e.g. 1000 or 1e3, got {text!r}")


def any_number(text: str) -> float:
    """Return a number.

    Raises:
        ValueError: the text is no number.
    """
    with suppress(ValueError):
        return float(text)
    raise ValueError(f"expected a number, e.g. 1000 or 1e3, got {text!r}")


def read_by(read: Callable[[str], float]) -> tyro.constructors.PrimitiveConstructorSpec:
    """Return how tyro reads an option that is a number, or None by default."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: [str(value)],
    )


# The types of options; tyro's own int does not accept 1e3, and its messages about unions show Python's types.
Whole = Annotated[int, read_by(whole_number)]
MaybeWhole = Annotated[int | None, read_by(whole_number)]
MaybeNumber = Annotated[float | None, read_by(any_number)]


def shown(metavar: str, default: str | None = None, *, hint: str | None = None) -> Any:
    """Return how --help shows an option: its value's name, and a description of its default or a hint."""
    hint = f"default: {default}" if default else hint
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"({hint})" if hint else None)
