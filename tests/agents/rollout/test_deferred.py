"""Deferred tensors: computed once, only when read, and like any tensor then."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.rollout.deferred import Deferred

VALUE = torch.tensor([1.0, 2.0, 4.0])

READS: list[Callable[[Any], Any]] = [
    lambda t: t.shape,
    lambda t: len(t),
    lambda t: t + 1,
    lambda t: 1 - t,
    lambda t: t[1],
    lambda t: t.numpy(),
    lambda t: np.asarray(t),
    lambda t: t.tolist(),
    lambda t: [float(x) for x in t],
    lambda t: torch.stack([t, t]),
    lambda t: torch.cat((t, VALUE)),
    lambda t: t.clone().cpu().flatten(),
    lambda t: (t.device, t.dtype, t.ndim),
    lambda t: copy.deepcopy(t),
    lambda t: pickle.loads(pickle.dumps(t)),
    lambda t: repr(t),
    lambda t: f"{t.mean():.1f}",
]


@pytest.mark.parametrize("read", READS)
def test_reads_as_the_tensor_it_stands_for(read: Callable[[Any], Any]) -> None:
    """Whatever a callback does with it gives what the tensor gives, and no Deferred comes out."""
    result, expected = read(Deferred(lambda: VALUE)), read(VALUE)
    assert type(result) is type(expected)
    assert np.array_equal(result, expected)


def test_computed_when_first_read_and_once() -> None:
    """Nothing is computed before it is read, and nothing twice."""
    calls: list[int] = []
    deferred = Deferred(lambda: calls.append(1) or VALUE)
    assert isinstance(deferred, torch.Tensor)
    assert not calls
    assert float(deferred.sum()) == float(deferred.sum()) == 7
    assert calls == [1]


def test_resolved_from_outside_only_where_unread() -> None:
    """A tensor given later is what unread ones become; what somebody has seen does not change."""
    late = torch.zeros(3)
    unread = Deferred(lambda: pytest.fail("computed"))
    assert unread.resolve(late) is late and torch.equal(unread + 0, late)
    read = Deferred(lambda: VALUE)
    assert read[0] == 1
    assert read.resolve(late) is VALUE
