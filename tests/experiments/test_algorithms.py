"""Ours and others' algorithms under one name each."""

import sys

import numpy as np
import pytest
from gymnasium import spaces

from experiments.algorithms import agent_class, joint_target_kl, with_schedule


def test_a_schedule_falls_to_zero() -> None:
    """RL Zoo's lin_0.2 begins at 0.2 and ends at 0; other values are left alone."""
    schedule = with_schedule("lin_0.2")
    assert [schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == pytest.approx([0.2, 0.1, 0.0])
    assert with_schedule(0.2) == 0.2 and with_schedule("MlpPolicy") == "MlpPolicy"
    with pytest.raises(ValueError, match=r"expected a schedule such as lin_0.001, got 'lin_fast'"):
        with_schedule("lin_fast")


@pytest.mark.parametrize(
    ("name", "actions", "joint"),
    [
        ("trpo", spaces.Box(-1, 1, (6,)), 0.01),
        ("contrib:trpo", spaces.Box(-1, 1, (6,)), 0.06),
        ("contrib:trpo", spaces.MultiBinary(7), 0.07),
        ("contrib:trpo", spaces.Discrete(3), 0.01),
        ("contrib:trpo", spaces.MultiDiscrete(np.array([2, 3])), 0.01),
        ("sb3:ppo", spaces.Box(-1, 1, (6,)), None),
    ],
)
def test_joint_bound(name: str, actions: spaces.Space, joint: float | None) -> None:
    """sb3-contrib averages over the dimensions of a Box and a MultiBinary; PPO's target is no bound."""
    found = joint_target_kl(name, {"target_kl": 0.01}, actions)
    assert found is None if joint is None else found == pytest.approx(joint)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """sb3-contrib is needed only by who asks for it."""
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt sb3-contrib"):
        agent_class("contrib:trpo")
    with pytest.raises(ValueError, match=r"unknown algorithm 'sb3:pp'; did you mean 'sb3:ppo'"):
        agent_class("sb3:pp")
