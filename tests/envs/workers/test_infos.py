"""Packed infos come back as they were, types and all."""

import pickle
from typing import Any

import numpy as np
import pytest

from envs.workers.infos import pack, unpack

NUMBERS = {"x": np.float64(1 / 3), "y": np.float32(0.1), "TimeLimit.truncated": False, "ok": np.True_}
LAST = {**NUMBERS, "terminal_observation": "here", "episode": {"r": 1.5}}


@pytest.mark.parametrize(
    "infos",
    [
        [NUMBERS] * 3,
        [LAST, NUMBERS, LAST, NUMBERS],
        [NUMBERS, {**NUMBERS, "x": 1.0}, {"x": 2**60}, {"x": None}],
        [{"nan": float("nan"), "tiny": 5e-324, "huge": -1.7e308}] * 2,
        [dict(reversed(NUMBERS.items())), NUMBERS],
        [{}, {}, NUMBERS],
        [{"count": 2**53 + 1}, {"count": np.int64(-(2**63))}],
        [{"x": np.array([1.0])}],
    ],
)
def test_what_is_packed_is_unpacked(infos: list[dict[str, Any]]) -> None:
    """Names in their order, values bitwise, types exactly; through pickle as between processes."""
    result = unpack(pickle.loads(pickle.dumps(pack(infos))))
    assert repr(result) == repr(infos)
    assert [[type(v) for v in info.values()] for info in result] == [
        [type(v) for v in info.values()] for info in infos
    ]


def test_infos_are_the_callers_own() -> None:
    """Changing one changes no other."""
    first, second = unpack(pack([dict(NUMBERS), dict(NUMBERS)]))
    first["x"] = 0
    assert second == NUMBERS
