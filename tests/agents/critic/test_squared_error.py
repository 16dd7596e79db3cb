"""The error of a plain MLP's values, and its gradients, without autograd."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.critic.squared_error import PlainError, plain_critic, squared_error
from agents.policy.actor import PolicyActor
from agents.policy.policies import MlpPolicy
from agents.rollout.batch import Batch

BOX = spaces.Box(-1, 1, (3,))


def make(
    policy_class: type[MlpPolicy] = MlpPolicy, **kwargs: Any
) -> tuple[MlpPolicy, list[nn.Parameter], Batch]:
    """Return a policy, the critic's parameters and 40 transitions."""
    torch.manual_seed(0)
    policy = policy_class(BOX, BOX, lambda _: 1e-3, **kwargs)
    policy.observe(torch.randn(100, 3) * 3 + 1)
    policy.observe_returns(torch.randn(100) * 7 - 2)
    states, returns = torch.randn(40, 3), 5 * torch.randn(40)
    return policy, PolicyActor(policy).critic_parameters(), Batch(states, states, *4 * [returns])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Identity])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("net_arch", [[], [16, 8]])
def test_bitwise_autograds(
    monkeypatch: pytest.MonkeyPatch, activation: type[nn.Module], normalize: bool, net_arch: list[int]
) -> None:
    """Error and gradients are autograd's, whatever the activation and the normalisers."""
    options = {"normalize_observations": normalize, "normalize_returns": normalize}
    policy, parameters, batch = make(activation_fn=activation, net_arch=net_arch, **options)
    states = torch.randperm(40)[:17]
    plain = squared_error(policy, parameters, batch)
    assert isinstance(plain, PlainError)
    monkeypatch.setattr("agents.critic.squared_error.plain_critic", lambda *_: None)
    error, gradients = plain(states)
    expected_error, expected = squared_error(policy, parameters, batch)(states)
    assert torch.equal(error, expected_error)
    assert all(map(torch.equal, gradients, expected))
    assert len(gradients) == len(parameters)


class OwnValues(MlpPolicy):
    """A policy with values of its own."""

    def predict_values(self, obs: Any) -> Tensor:
        """Return twice the usual values."""
        return 2 * super().predict_values(obs)


@pytest.mark.parametrize("case", ["own method", "hook", "no bias", "frozen layer", "softplus"])
def test_other_critics_are_left_to_autograd(case: str) -> None:
    """What is not such a chain of layers has the gradients of what it is."""
    kwargs: dict[str, Any] = {"activation_fn": nn.Softplus} if case == "softplus" else {}
    policy, parameters, batch = make(OwnValues if case == "own method" else MlpPolicy, **kwargs)
    if case == "hook":
        policy.value_net.register_forward_hook(lambda module, inputs, output: 3 * output)
    if case == "no bias":
        policy.value_net = nn.Linear(64, 1, bias=False)
    if case == "frozen layer":
        policy.value_net.requires_grad_(False)
    parameters = PolicyActor(policy).critic_parameters()
    assert plain_critic(policy, parameters) is None
    error, gradients = squared_error(policy, parameters, batch)(torch.arange(40))
    expected = (policy.predict_values(batch.observations).flatten() - batch.returns).square().mean()
    torch.testing.assert_close(error, expected)
    assert len(gradients) == len(parameters)
