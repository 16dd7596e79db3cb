"""Chains of linear layers: the same derivative as autograd's, and never taken for what they are not."""

from collections.abc import Callable

import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npg import Categorical, DiagGaussian, ExactFisher
from npg.fisher.chain import ChainJacobian, jacobian_of
from npg.fisher.jacobian import Jacobian

N = 7


def network(*modules: nn.Module) -> nn.Module:
    """Return modules one after another in float64, with drawn weights."""
    sequential = nn.Sequential(*modules).double()
    oracles.draw_weights_(sequential, 0)
    return sequential


def mlp(activation: nn.Module) -> nn.Module:
    """Return 3-5-4-2 with one activation twice."""
    return network(nn.Linear(3, 5), activation, nn.Linear(5, 4), activation, nn.Linear(4, 2))


def same_products(outputs: tuple[Tensor, ...], tensors: list[Tensor]) -> None:
    """Assert that both Jacobians give the same J v and Jᵀ u."""
    chain, autograd = jacobian_of(outputs, tensors), Jacobian(outputs, tensors)
    tangents = [oracles.randn(i, *t.shape) for i, t in enumerate(tensors)]
    cotangents = tuple(oracles.randn(10 + i, *z.shape) for i, z in enumerate(outputs))
    for ours, theirs in zip(chain.push_forward(tangents), autograd.push_forward(tangents), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    pairs = zip(tensors, chain.pull_back(cotangents), autograd.pull_back(cotangents), strict=True)
    for tensor, ours, theirs in pairs:
        zeros = torch.zeros_like(tensor)
        torch.testing.assert_close(
            zeros if ours is None else ours, zeros if theirs is None else theirs, rtol=1e-12, atol=1e-12
        )


ACTIVATIONS = [
    nn.Tanh(),
    nn.ReLU(),
    nn.Sigmoid(),
    nn.ELU(),
    nn.SiLU(),
    nn.GELU(),
    nn.LeakyReLU(),
    nn.Softplus(),
    nn.Hardtanh(),
    nn.Sequential(nn.Tanh(), nn.SiLU()),
    nn.Identity(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_chain_has_autograds_derivative(activation: nn.Module) -> None:
    """For every activation, in front of a Gaussian, logits and log-probabilities."""
    actor = mlp(activation)
    z = actor(oracles.observations(0, N))
    log_std = nn.Parameter(oracles.randn(5, 2))
    gaussian = DiagGaussian(z, log_std.expand(N, 2))
    parameters = list(actor.parameters())
    for outputs, tensors in (
        ((z,), parameters),
        (gaussian.coordinates, [log_std, *parameters]),
        (Categorical(logits=z).coordinates, parameters),
        ((gaussian.log_prob(oracles.randn(6, N, 2)),), [*parameters, log_std]),
    ):
        assert isinstance(jacobian_of(outputs, tensors), ChainJacobian)
        same_products(outputs, tensors)


def test_one_layer_is_a_chain_and_an_unreached_parameter_has_no_derivative() -> None:
    """The shortest chain, and a parameter beside it."""
    actor, apart = network(nn.Linear(3, 2)), nn.Parameter(oracles.randn(1, 4))
    outputs, tensors = (actor(oracles.observations(0, N)),), [apart, *actor.parameters()]
    assert isinstance(jacobian_of(outputs, tensors), ChainJacobian)
    same_products(outputs, tensors)


class Skipping(nn.Module):
    """The hidden layer reaches the output twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Add what was skipped."""
        h = torch.tanh(self.first(x))
        return h + self.second(h)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Use it twice."""
        return self.layer(torch.tanh(self.layer(x)))


class Scaled(nn.Module):
    """A linear layer that torch scales."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Use a beta of 2 for the bias."""
        return torch.addmm(self.layer.bias, x, self.layer.weight.T, beta=2)


class Weighted(nn.Module):
    """A weight that is made of parameters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Square it first."""
        return F.linear(x, self.layer.weight.square(), self.layer.bias)


def frozen() -> nn.Module:
    """Return an MLP with a first layer that is not trained."""
    actor = mlp(nn.Tanh())
    actor[0].requires_grad_(False)
    return actor


OTHERS: list[Callable[[], nn.Module]] = [
    Skipping,
    Tied,
    Scaled,
    Weighted,
    lambda: network(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)),
    lambda: network(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    lambda: network(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2)),
    lambda: network(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(4, 2)),
]


@pytest.mark.parametrize("make", OTHERS)
def test_what_is_no_chain_is_left_to_autograd(make: Callable[[], nn.Module]) -> None:
    """It has the derivative that it should."""
    actor = make().double()
    outputs = (actor(oracles.observations(0, N)),)
    assert isinstance(jacobian_of(outputs, actor.parameters()), Jacobian)
    same_products(outputs, list(actor.parameters()))


def test_frozen_layers_below_are_a_part_of_the_input() -> None:
    """The chain begins where parameters do; a frozen layer between leaves it to autograd."""
    actor = frozen()
    outputs, tensors = (
        (actor(oracles.observations(0, N)),),
        [p for p in actor.parameters() if p.requires_grad],
    )
    assert isinstance(jacobian_of(outputs, tensors), ChainJacobian)
    same_products(outputs, tensors)
    between = mlp(nn.Tanh())
    between[2].requires_grad_(False)
    outputs = (between(oracles.observations(0, N)),)
    tensors = [p for p in between.parameters() if p.requires_grad]
    assert isinstance(jacobian_of(outputs, tensors), Jacobian)
    same_products(outputs, tensors)


def test_the_operator_stands_for_its_own_parameters_and_observations() -> None:
    """Parameters that change later change nothing; observations changed in place are an error."""
    actor, observations = oracles.RandomActor("gaussian"), oracles.observations(0, N)
    fisher = ExactFisher(actor, observations)
    vector = oracles.randn(1, fisher.size)
    before = fisher @ vector
    with torch.no_grad():
        actor.head.weight.mul_(2)
    assert torch.equal(fisher @ vector, before)
    observations.mul_(2)
    with pytest.raises(RuntimeError, match="observations were changed in place"):
        fisher @ vector


def test_a_broadcast_bias_is_no_chain() -> None:
    """Its gradient is a sum that a link does not make."""
    weight, bias = (oracles.randn(i, *shape).requires_grad_() for i, shape in enumerate([(5, 3), (1,)]))
    outputs = (F.linear(oracles.randn(2, N, 3), weight, bias),)
    assert not isinstance(jacobian_of(outputs, [weight, bias]), ChainJacobian)
    same_products(outputs, [weight, bias])
