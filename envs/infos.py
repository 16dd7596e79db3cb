"""Infos of one step, in few bytes: most of them are a handful of numbers under the same names."""

import struct
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

Info = dict[str, Any]

# What a double holds without loss. NumPy's scalars are what takes pickle long.
_EXACT_AS_DOUBLE = {np.float64, np.float32, np.bool, float, bool}


def pack(infos: Sequence[Info]) -> Any:
    """Returns what pickles ten times faster than the infos, and is the same to `unpack`.

    Doubles under the names and of the types of the first such info become a row of bytes; any other
    info, as at the end of an episode, travels as it is.
    """
    form = None
    numbers: list[float] = []
    others: dict[int, Info] = {}
    for position, info in enumerate(infos):
        names_and_types = tuple(info), tuple(map(type, info.values()))
        if form is None and _EXACT_AS_DOUBLE.issuperset(names_and_types[1]):
            form = names_and_types
        if names_and_types == form:
            numbers.extend(info.values())
        else:
            others[position] = info
    return len(infos), form, struct.pack(f"{len(numbers)}d", *numbers), others


def unpack(packed: Any) -> list[Info]:
    """Returns the infos, with the types they had."""
    count, form, numbers, others = packed
    if form is None:
        return [others[position] for position in range(count)]
    names, types = form
    rows = struct.iter_unpack(f"{len(names)}d", numbers) if names else repeat(())
    return [
        others[position]
        if position in others
        else {name: kind(number) for name, kind, number in zip(names, types, next(rows), strict=True)}
        for position in range(count)
    ]
