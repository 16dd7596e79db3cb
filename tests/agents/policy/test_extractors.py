"""Feature extractors of users whose layers torch's usual kernels cannot differentiate twice (case M3)."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import SpacesEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agents import ACKTR, NPG, TRPO, VPG
from agents.base import PolicyGradientAgent

TOKENS, WIDTH = 5, 4
OBSERVATIONS = spaces.Box(-1, 1, (TOKENS, WIDTH), np.float32)
SMALL = {"n_steps": 32, "batch_size": 32, "seed": 0, "device": "cpu"}


class Extractor(BaseFeaturesExtractor):
    """Base of the extractors below."""

    def __init__(self, space: spaces.Box):
        super().__init__(space, WIDTH)


class Attention(Extractor):
    """An encoder of tokens, of which the last ones may be padding; its outputs are averaged over all."""

    def __init__(self, space: spaces.Box):
        super().__init__(space)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        lengths = 1 + (x[:, 0, 0] > 0) * (TOKENS - 2)
        return self.encoder(x, src_key_padding_mask=torch.arange(TOKENS) >= lengths[:, None]).mean(1)


class Graph(Extractor):
    """A layer of messages between neighbours on a ring."""

    def __init__(self, space: spaces.Box):
        super().__init__(space)
        self.message, self.update = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("receiver", (torch.arange(TOKENS) + 1) % TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        received = torch.zeros_like(x).index_add(1, self.receiver, self.message(x).relu())
        return torch.tanh(self.update(received + x)).mean(1)


class Distances(Extractor):
    """Distances between embedded tokens, which torch can differentiate only once."""

    def __init__(self, space: spaces.Box):
        super().__init__(space)
        self.embed = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return torch.cdist(self.embed(x[:, 1:]), x[:, :1]).flatten(1)


class Recurrent(Extractor):
    """The last output of an LSTM over the tokens."""

    def __init__(self, space: spaces.Box):
        super().__init__(space)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.lstm(x)[0][:, -1]


class Reentrant(Recurrent):
    """With a checkpoint that has no gradient by torch.autograd.grad."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return checkpoint(super().forward, x.requires_grad_(), use_reentrant=True)


def agent_with(agent_class: type[PolicyGradientAgent], extractor: type[Extractor]) -> Any:
    """Return a small agent."""
    env = SpacesEnv(OBSERVATIONS, spaces.Discrete(3))
    return agent_class("MlpPolicy", env, **SMALL, policy_kwargs={"features_extractor_class": extractor})


@pytest.mark.filterwarnings("ignore:no Kronecker factors are known")
@pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO, ACKTR])
@pytest.mark.parametrize("extractor", [Attention, Graph, Recurrent])
def test_extractors_train(agent_class: type[PolicyGradientAgent], extractor: type[Extractor]) -> None:
    """Every step is accepted, and no product is approximated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning)
        agent = agent_with(agent_class, extractor).learn(64)
    assert agent.outcomes["accepted"] == 2


@pytest.mark.filterwarnings("ignore:no Kronecker factors are known")
@pytest.mark.parametrize("agent_class", [NPG, TRPO, ACKTR])
def test_differences_are_reported_once(agent_class: type[PolicyGradientAgent]) -> None:
    """By NPG and TRPO; ACKTR's blocks of layers need one derivative only."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        agent = agent_with(agent_class, Distances).learn(96)
    assert agent.outcomes["accepted"] == 3
    about = [str(w.message) for w in caught if "_cdist_backward" in str(w.message)]
    assert len(about) == (agent_class is not ACKTR)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_rollouts_and_updates_have_the_same_policy(tmp_path: Path) -> None:
    """Padding counts as much without gradients as with them: in rollouts, predictions, and after loading."""
    agent = agent_with(TRPO, Attention)
    agent.learn(32)
    agent.collect_rollouts(agent.env, agent._init_callback(None), agent.rollout_buffer, 32)
    buffer = agent.rollout_buffer
    states, actions = torch.as_tensor(buffer.observations[:, 0]), torch.as_tensor(buffer.actions[:, 0, 0])
    values, log_prob, _ = agent.policy.evaluate_actions(states, actions)
    np.testing.assert_allclose(log_prob.detach(), buffer.log_probs[:, 0], atol=1e-6)
    np.testing.assert_allclose(values.detach()[:, 0], buffer.values[:, 0], atol=1e-6)
    agent.save(tmp_path / "model")
    for policy in (agent.policy, TRPO.load(tmp_path / "model").policy):
        best = agent.actor(states).coordinates[0].argmax(1)
        assert np.array_equal(policy.predict(states.numpy(), deterministic=True)[0], best)


def test_policy_and_critic_take_turns() -> None:
    """The policy step's kernels for attention would reach a critic that is fitted at the same time."""
    for extractor, parallel in ((Attention, False), (Graph, True)):
        agent = agent_with(TRPO, extractor)
        agent.critic_fit = "lbfgs"
        assert agent._fits_in_parallel(agent.make_critic()) is parallel


def test_recurrent_layers_stay_in_training_mode() -> None:
    """CuDNN has their gradient in that mode only; dropout would need the other one."""
    policy = agent_with(TRPO, Recurrent).policy
    policy.set_training_mode(False)
    lstm = policy.pi_features_extractor.lstm
    assert lstm.training and not policy.training
    lstm.dropout = 0.1
    policy.set_training_mode(False)
    assert not lstm.training


@pytest.mark.slow  # checkpoint imports the compiler
def test_a_policy_without_gradients_is_rejected() -> None:
    """When the agent is made, with torch's advice."""
    with pytest.raises(TypeError, match=r"MlpPolicy cannot be differentiated: .*use_reentrant=False"):
        agent_with(TRPO, Reentrant)
