"""Nested observations: arrays, and dicts and tuples of them to any depth."""

import numpy as np
import pytest

from envs.observations import copy_observations, copy_row, map_arrays, replace_rows, select_rows


def nested() -> dict[str, object]:
    """Return a batch of three observations."""
    return {"a": np.arange(6.0).reshape(3, 2), "b": (np.arange(3), {"c": np.ones((3, 1))})}


def test_rows_are_selected_replaced_and_copied() -> None:
    """By indices and by mask, in every array; copies share no memory with the batch."""
    batch, kept = nested(), copy_observations(nested())
    mask = np.array([True, False, True])
    selected = select_rows(batch, mask)
    assert selected["a"].tolist() == [[0, 1], [4, 5]]
    assert selected["b"][0].tolist() == [0, 2]
    replace_rows(batch, np.array([2, 0]), selected)
    assert batch["a"].tolist() == [[4, 5], [2, 3], [0, 1]]
    assert batch["b"][0].tolist() == [2, 1, 0]
    row, copy = copy_row(batch, 0), copy_observations(batch)
    replace_rows(batch, mask, select_rows(kept, mask))
    assert row["a"].tolist() == copy["a"][0].tolist() == [4, 5]
    assert batch["a"].tolist() == kept["a"].tolist()
    assert type(row["b"]) is tuple and row["b"][1]["c"].shape == (1,)


def test_observations_of_other_nestings_are_rejected() -> None:
    """A key or an item that is missing is an error."""
    for other in ({"a": np.zeros(3)}, {"a": np.zeros(3), "b": (np.zeros(3),)}):
        with pytest.raises((KeyError, ValueError)):
            map_arrays(np.add, nested(), other)
