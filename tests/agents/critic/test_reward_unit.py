"""The unit of the reward changes nothing but the unit of the values."""

from typing import Any

import gymnasium as gym
import pytest
import torch

from agents import ACKTR, NPG, TRPO, VPG
from agents.base import PolicyGradientAgent

UNIT = 1024.0  # a power of two, by which floating-point numbers scale without rounding
CASES = [
    *[(agent, fit, True) for agent in (VPG, NPG, TRPO) for fit in ("lbfgs", "minibatch")],
    *[(agent, "lbfgs", False) for agent in (VPG, NPG, TRPO)],
    (ACKTR, "kronecker", True),
    (ACKTR, "kronecker", False),
]


def values(agent_class: type[PolicyGradientAgent], fit: str, normalize: bool, unit: float) -> torch.Tensor:
    """Return the values of some states after four updates from a value head of zeros."""
    env = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda reward: unit * reward)
    options: dict[str, Any] = {} if agent_class is ACKTR else {"critic_fit": fit}
    if fit == "kronecker":
        options |= {"factor_interval": 2, "inverse_interval": 3, "batch_size": 64}
    agent = agent_class(
        "MlpPolicy",
        env,
        n_steps=128,
        n_critic_updates=2,
        policy_kwargs={"normalize_returns": normalize},
        seed=0,
        device="cpu",
        **options,
    )
    torch.nn.init.zeros_(agent.policy.value_net.weight)
    torch.nn.init.zeros_(agent.policy.value_net.bias)
    agent.learn(4 * 128, log_interval=None)
    with torch.no_grad():
        return agent.policy.predict_values(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.covering(2)
@pytest.mark.parametrize(("agent_class", "fit", "normalize"), CASES)
def test_values_scale_with_rewards(agent_class: type[PolicyGradientAgent], fit: str, normalize: bool) -> None:
    """Rewards times 1024 give values times 1024, bitwise."""
    small, large = (values(agent_class, fit, normalize, unit) for unit in (1.0, UNIT))
    assert small.std() > 1e-3
    assert torch.equal(large, UNIT * small)
