"""npg's own action distributions in SB3's policies."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import SpacesEnv

from agents import ACKTR, NPG, TRPO, VPG, MlpPolicy
from agents.base import PolicyGradientAgent
from npg import Beta, DiagGaussian, FullGaussian

HEADS = {"beta": Beta, "full_gaussian": FullGaussian, "state_dependent_gaussian": DiagGaussian}
OBSERVATIONS = spaces.Box(-1, 1, (3,))
LOW, HIGH = np.array([[-1.0, 0.0], [2.0, -3.0]], np.float32), np.array([[1.0, 5.0], [3.0, -2.0]], np.float32)
SMALL = {"n_steps": 64, "seed": 0, "device": "cpu"}


@pytest.mark.covering(1)
@pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO, ACKTR])
@pytest.mark.parametrize("name", HEADS)
def test_every_agent_trains_it(
    agent_class: type[PolicyGradientAgent], name: str, tmp_path: Path, parameters: Callable
) -> None:
    """Steps are accepted, actions have the space's shape, and the policy is saved with its distribution."""
    env = SpacesEnv(OBSERVATIONS, spaces.Box(LOW, HIGH))
    agent = agent_class("MlpPolicy", env, **SMALL, policy_kwargs={"distribution": name}).learn(128)
    assert agent.outcomes["accepted"] == 2
    distribution = agent.actor(torch.randn(5, 3))
    assert type(distribution) is HEADS[name]
    for deterministic in (False, True):
        actions, _ = agent.predict(np.zeros((5, 3), np.float32), deterministic=deterministic)
        assert actions.shape == (5, 2, 2) and env.action_space.contains(actions[0])
    agent.policy.save(tmp_path / "policy.pt")
    loaded = MlpPolicy.load(tmp_path / "policy.pt")
    assert torch.equal(parameters(loaded), parameters(agent.policy))


def test_beta_needs_no_clipping() -> None:
    """All actions of a rollout lie inside the bounds, also those that no environment has clipped."""
    env = SpacesEnv(OBSERVATIONS, spaces.Box(LOW, HIGH))
    agent = TRPO("MlpPolicy", env, **SMALL, policy_kwargs={"distribution": "beta"}).learn(64)
    actions = agent.rollout_buffer.actions.reshape(-1, 4)
    assert (actions > LOW.reshape(-1)).all() and (actions < HIGH.reshape(-1)).all()
    assert np.ptp(actions, 0).min() > 0.5  # not stuck at a bound


def test_spaces_that_do_not_fit_are_rejected() -> None:
    """An unbounded Box has no Beta distribution, and choices have none of the three."""
    unbounded = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match="bounds must be finite"):
        TRPO("MlpPolicy", SpacesEnv(OBSERVATIONS, unbounded), policy_kwargs={"distribution": "beta"})
    for name in HEADS:
        with pytest.raises(ValueError, match=f"'{name}' is for the actions of a Box, got Discrete"):
            TRPO("MlpPolicy", "CartPole-v1", policy_kwargs={"distribution": name})
