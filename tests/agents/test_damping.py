"""Adaptive damping in the agents: off by default, deterministic, saved with the agent."""

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import Episodes
from stable_baselines3.common.callbacks import BaseCallback

from agents import NPG, TRPO
from agents.base import PolicyGradientAgent
from npg import LevenbergMarquardt

SMALL = {"n_steps": 64, "batch_size": 64, "n_critic_updates": 2, "seed": 0, "device": "cpu"}
BOTH = pytest.mark.parametrize("agent_class", [NPG, TRPO])
Parameters = Callable[[torch.nn.Module], torch.Tensor]


class Watch(BaseCallback):
    """Keeps npg/damping of every update, read when the next rollout begins, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.dampings: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if "npg/damping" in self.logger.name_to_value:
            self.dampings.append(self.logger.name_to_value["npg/damping"])


def learn(
    agent_class: type[PolicyGradientAgent], **settings: object
) -> tuple[PolicyGradientAgent, list[float]]:
    """Return an agent after five updates and the λ that each of them used."""
    agent, watch = agent_class("MlpPolicy", "CartPole-v1", **SMALL | settings), Watch()
    agent.learn(64 * 5, watch, log_interval=None)
    return agent, [*watch.dampings, agent.logger.name_to_value["npg/damping"]]


@BOTH
def test_off_changes_nothing(
    agent_class: type[PolicyGradientAgent], parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default λ is constant and the rule is never asked; a rule without effect is bitwise the same."""
    with monkeypatch.context() as patch:
        patch.delattr(LevenbergMarquardt, "adapted")
        off, dampings = learn(agent_class)
    assert dampings == [0.1] * 5 and off.cg_damping == 0.1
    monkeypatch.setattr(LevenbergMarquardt, "adapted", lambda self, damping, step: damping)
    still, _ = learn(agent_class, adaptive_damping=True)
    assert torch.equal(parameters(off.policy), parameters(still.policy))


@BOTH
def test_on_moves_the_damping_and_stays_deterministic(
    agent_class: type[PolicyGradientAgent], parameters: Parameters
) -> None:
    """λ begins at cg_damping, moves by the rule's factor, is logged as used, and repeats by seed."""
    runs = [learn(agent_class, adaptive_damping=True, cg_damping=0.2) for _ in range(2)]
    (agent, dampings), (again, dampings_again) = runs
    assert dampings[0] == 0.2 and len(set(dampings)) > 1
    steps = np.log(np.divide([*dampings[1:], agent.cg_damping], dampings)) / np.log(1.5)
    assert np.allclose(steps, np.round(steps)) and np.abs(steps).max() <= 1 + 1e-9
    assert dampings == dampings_again and agent.cg_damping == again.cg_damping
    assert torch.equal(parameters(agent.policy), parameters(again.policy))
    off, _ = learn(agent_class, cg_damping=0.2)
    assert not torch.equal(parameters(agent.policy), parameters(off.policy))


@BOTH
def test_the_present_damping_is_saved(
    agent_class: type[PolicyGradientAgent], tmp_path: Path, parameters: Parameters
) -> None:
    """A loaded agent continues with its λ, bitwise; a λ given to load replaces it."""
    agent, _ = learn(agent_class, adaptive_damping=True)
    assert agent.cg_damping != 0.1
    agent.save(tmp_path / "model.zip")
    loaded = agent_class.load(tmp_path / "model.zip", device="cpu")
    assert loaded.adaptive_damping and loaded.cg_damping == agent.cg_damping
    for one in (agent, loaded):
        one.set_env(gym.make("CartPole-v1"), force_reset=True)
        one.set_random_seed(5)
        one.learn(128, reset_num_timesteps=False)
    assert loaded.cg_damping == agent.cg_damping
    assert torch.equal(parameters(agent.policy), parameters(loaded.policy))
    assert agent_class.load(tmp_path / "model.zip", cg_damping=0.5).cg_damping == 0.5


@BOTH
def test_equal_rewards_leave_the_damping(agent_class: type[PolicyGradientAgent]) -> None:
    """An update with nothing to learn does not move λ."""
    env = Episodes([0.0, 0.0], "terminated")
    agent = agent_class("MlpPolicy", env, **SMALL | {"n_critic_updates": 0}, adaptive_damping=True)
    with torch.no_grad():
        agent.policy.value_net.weight.zero_()
    agent.learn(128, log_interval=None)
    assert agent.outcomes["no_improvement"] == 2
    assert agent.cg_damping == 0.1


@BOTH
def test_only_true_or_false(agent_class: type[PolicyGradientAgent]) -> None:
    """The error names the argument, what it expects and what came."""
    with pytest.raises(ValueError, match="adaptive_damping must be true or false, got 'lm'"):
        agent_class("MlpPolicy", "CartPole-v1", **SMALL, adaptive_damping="lm")
