"""Hessians of the mean KL and of the mean negative log-likelihood."""

import operators
import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor
from torch import Tensor
from torch.func import hessian

from npg import DiagGaussian, ExactFisher, KLHessian, LikelihoodHessian

every_family = pytest.mark.parametrize("family", FAMILIES)


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


@every_family
def test_the_hessian_of_the_kl_by_torch_func(family: str) -> None:
    """KLHessian is torch.func.hessian of the mean joint KL of torch.distributions."""
    actor, observations = RandomActor(family), oracles.observations(0)
    old, policy = actor(observations).snapshot(), oracles.as_function(actor, observations)
    dense = hessian(lambda vector: oracles.kl(old, policy(vector)).mean())(oracles.flat_parameters(actor))
    equal(KLHessian(actor, observations).to_dense(), dense)


@every_family
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_hessian_of_the_likelihood_by_torch_func(family: str, seed: int) -> None:
    """LikelihoodHessian is torch.func.hessian of the mean −log π, for actions drawn or not."""
    actor, observations = RandomActor(family, seed), oracles.observations(seed)
    actions = actor(observations).sample(oracles.generator(seed))
    dense = LikelihoodHessian(actor, observations, actions).to_dense()
    equal(dense, oracles.likelihood_hessian(actor, observations, actions))
    equal(dense, dense.T)


@every_family
def test_its_expectation_is_the_fisher_matrix(family: str) -> None:
    """Averaged over every action with its probability the Hessian of −log π is F."""
    actor, observations = RandomActor(family), oracles.observations(0, n=1)
    actions, weights = oracles.quadrature(actor(observations))
    hessians = [LikelihoodHessian(actor, observations, action).to_dense() for action in actions]
    expected = sum(w * H for w, H in zip(weights[:, 0], hessians, strict=True))
    equal(expected, ExactFisher(actor, observations).to_dense())


def test_it_need_not_be_positive() -> None:
    """For −log N(z; 0, 1) it is [[1, 2z], [2z, 2z²]] in mean and log scale: negative along one direction."""
    mean, log_std = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    table = oracles.Table(DiagGaussian(mean, log_std))
    for z in (0.0, 1.0, 2.0):
        action = torch.full((1, 1), z, dtype=torch.float64)
        dense = LikelihoodHessian(table, None, action).to_dense()
        equal(dense, torch.tensor([[1, 2 * z], [2 * z, 2 * z**2]], dtype=torch.float64))
    assert torch.linalg.eigvalsh(dense)[0] < 0


@pytest.mark.parametrize("operator", [operators.likelihood, operators.empirical])
def test_actions_of_another_shape_are_rejected(operator: operators.Operator) -> None:
    """Actions that would only broadcast raise ValueError at construction, whole and in micro-batches."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    kind = {operators.likelihood: LikelihoodHessian}.get(operator, operators.EmpiricalFisher)
    for actions in (torch.zeros(5), torch.zeros(1, 2), torch.zeros(4, 2), torch.zeros(6, 2)):
        for size in (None, 1, 5):
            with pytest.raises(ValueError, match=r"shape|same length"):
                kind(actor, observations, actions.double(), micro_batch_size=size)
