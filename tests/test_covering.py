"""The marker `covering` leaves no value out."""

import itertools

import pytest
from covering import choose_covering

VALUES = {"agent": "abcd", "space": range(8), "action": (1.0, 2.0, 3.0, [4]), "flag": (False, True)}
CASES = [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]


@pytest.mark.parametrize(("strength", "fewest", "most"), [(1, 8, 8), (2, 32, 36), (4, 256, 256)])
def test_every_combination_occurs(strength: int, fewest: int, most: int) -> None:
    """In few of the 256 cases."""
    chosen = choose_covering(CASES, strength)
    for names in itertools.combinations(VALUES, strength):
        found = {repr([CASES[i][name] for name in names]) for i in chosen}
        assert found == {repr([case[name] for name in names]) for case in CASES}
    assert fewest <= len(chosen) <= most


def test_values_occur_about_as_often() -> None:
    """Where combinations do not decide, rare values are chosen."""
    chosen = choose_covering(CASES, 1)
    assert [sum(CASES[i]["agent"] == agent for i in chosen) for agent in "abcd"] == [2, 2, 2, 2]
    assert sum(CASES[i]["flag"] for i in chosen) == 4
