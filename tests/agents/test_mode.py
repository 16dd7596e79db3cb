"""Dropout and batch norm rest during an update, so that a policy has no KL to itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.base import PolicyGradientAgent
from npg import SurrogateObjective


class Noisy(BaseFeaturesExtractor):
    """Features that differ between training and evaluation mode."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return self.layers(observations)


@pytest.mark.covering(1)
@pytest.mark.parametrize("shared", [True, False])
def test_a_policy_has_no_kl_to_itself(
    agent_class: type[PolicyGradientAgent],
    shared: bool,
    monkeypatch: pytest.MonkeyPatch,
    parameters: Callable,
) -> None:
    """KL(θ‖θ) = 0 and the ratios start at 1; batch norm learns between updates."""
    seen: list[tuple[float, torch.Tensor, int]] = []
    step = agent_class.policy_step

    def spy(self: PolicyGradientAgent, batch: object, objective: SurrogateObjective) -> object:
        nothing = torch.zeros_like(objective.parameters.vector())
        taken = step(self, batch, objective)
        batches = self.policy.pi_features_extractor.layers[1].num_batches_tracked.item()
        seen.append((objective.evaluate(nothing).kl, objective._old_ratio, batches))
        return taken

    monkeypatch.setattr(agent_class, "policy_step", spy)
    env = DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS["box"], ACTIONS["box"])])
    kwargs = {"features_extractor_class": Noisy, "share_features_extractor": shared}
    agent = agent_class(
        "MlpPolicy", env, n_steps=32, batch_size=16, policy_kwargs=kwargs, seed=0, device="cpu"
    )
    before = parameters(agent.policy)
    agent.learn(64, log_interval=None)
    assert not torch.equal(parameters(agent.policy), before)
    for kl, ratio, _ in seen:
        assert kl == 0
        assert np.allclose(ratio, 1, atol=1e-5)
    assert [batches for _, _, batches in seen] == [0, 1]
