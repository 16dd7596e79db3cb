"""Compact encoding of one step's infos, most of which have a few numbers with the same names."""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Info = dict[str, Any]

# {type whose values a double represents exactly: conversion of a column of doubles back to it}. NumPy's
# scalars are what makes pickle slow.
_FROM_DOUBLES: dict[type, Callable[[NDArray[np.float64]], list[Any]]] = {
    float: lambda column: column.tolist(),
    bool: lambda column: column.astype(bool).tolist(),
    np.float64: list,
    np.float32: lambda column: list(column.astype(np.float32)),
    np.bool: lambda column: list(column.astype(bool)),
}


def pack(infos: Sequence[Info]) -> Any:
    """Return an encoding that pickles ten times faster than the infos themselves; `unpack` inverts it.

    The first info whose values are all representable as doubles sets the names and types. Every info with
    the same names and types becomes a row of doubles; all others, e.g. at the end of an episode, are kept as
    they are.
    """
    form = None
    numbers: list[float] = []
    others: dict[int, Info] = {}
    for position, info in enumerate(infos):
        names_and_types = tuple(info), tuple(map(type, info.values()))
        if form is None and _FROM_DOUBLES.keys() >= set(names_and_types[1]):
            form = names_and_types
        if names_and_types == form:
            numbers.extend(info.values())
        else:
            others[position] = info
    return len(infos), form, struct.pack(f"{len(numbers)}d", *numbers), others


def unpack(packed: Any) -> list[Info]:
    """Return the infos, with their original types."""
    count, form, numbers, others = packed
    if form is None:
        return [others[position] for position in range(count)]
    names, types = form
    alike = count - len(others)
    table = np.frombuffer(numbers).reshape(alike, len(names))
    columns = [_FROM_DOUBLES[kind](table[:, j]) for j, kind in enumerate(types)]
    rows = zip(*columns, strict=True) if names else [()] * alike
    infos = [dict(zip(names, row, strict=True)) for row in rows]
    for position, info in others.items():  # in ascending order
        infos.insert(position, info)
    return infos
