"""The Fisher matrix from the scores of sampled actions."""

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor

from npg import EmpiricalFisher, ExactFisher, SampledFisher

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_within_four_standard_errors(family: str) -> None:
    """Each entry is within four of its standard errors of F; those come by quadrature, not by sampling."""
    actor, observations, samples = RandomActor(family), oracles.observations(0), 100
    fisher = SampledFisher(actor, observations, samples=samples, generator=oracles.generator(1))
    error = oracles.sampled_fisher_error(actor, observations, samples)
    difference = (fisher.to_dense() - oracles.enumerated_fisher(actor, observations)).abs()
    assert (difference <= 4 * error + 1e-12).all()
    assert (difference > 0.1 * error).any()


@pytest.mark.parametrize("family", ["gaussian", "categorical", "bernoulli"])
def test_the_error_shrinks_with_the_root_of_the_samples(family: str) -> None:
    """With 16 times the actions the root mean square error is a quarter, as the standard error says.

    A mean square over R operators has a relative noise of about √(2 / R): 0.3 here, and half of it in the
    root.
    """
    actor, observations = RandomActor(family), oracles.observations(0, n=3)
    exact = oracles.enumerated_fisher(actor, observations)
    v = oracles.randn(0, len(exact))
    errors = []
    for samples in (4, 64):
        fishers = [
            SampledFisher(actor, observations, samples=samples, generator=oracles.generator(seed))
            for seed in range(20)
        ]
        squares = [(fisher @ v - exact @ v).square().sum() for fisher in fishers]
        errors.append(float(torch.stack(squares).mean().sqrt()))
    assert 4 / 1.4 < errors[0] / errors[1] < 4 * 1.4


@every_family
def test_it_is_the_empirical_matrix_of_its_own_actions(family: str) -> None:
    """With k = 1 it is EmpiricalFisher at the action that its generator draws; with k the mean over k."""
    actor, observations = RandomActor(family), oracles.observations(0)
    source = oracles.generator(2)
    drawn = [actor(observations).sample(source) for _ in range(3)]
    for k in (1, 3):
        sampled = SampledFisher(actor, observations, samples=k, generator=oracles.generator(2)).to_dense()
        empirical = [EmpiricalFisher(actor, observations, actions).to_dense() for actions in drawn[:k]]
        torch.testing.assert_close(sampled, sum(empirical) / k, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [None, 2])
def test_where_the_actions_come_from(size: int | None) -> None:
    """From the generator if there is one, else from torch's own; once, at construction."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    v = oracles.randn(0, oracles.flat_parameters(actor).numel())

    def product(seed: int) -> torch.Tensor:
        source = oracles.generator(seed)
        return SampledFisher(actor, observations, generator=source, micro_batch_size=size) @ v

    before = torch.get_rng_state()
    assert torch.equal(product(0), product(0))
    assert not torch.equal(product(0), product(1))
    assert torch.equal(torch.get_rng_state(), before)

    torch.manual_seed(0)
    fisher = SampledFisher(actor, observations, micro_batch_size=size)
    after = torch.get_rng_state()
    first = fisher @ v
    assert not torch.equal(after, before)
    assert torch.equal(fisher @ v, first)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(0)
    assert torch.equal(SampledFisher(actor, observations, micro_batch_size=size) @ v, first)


@pytest.mark.parametrize("samples", [0, -1])
def test_no_sample_is_rejected(samples: int) -> None:
    """At least one action a state is drawn."""
    with pytest.raises(ValueError, match=f"1 to 10000 samples.*got {samples}"):
        SampledFisher(RandomActor("bernoulli"), oracles.observations(0), samples=samples)


def test_of_many_states_it_tends_to_the_exact_matrix() -> None:
    """Its relative error is the same for N states with one action as for one state with N actions."""
    actor, observation = RandomActor("categorical"), oracles.observations(0, n=1)
    exact = ExactFisher(actor, observation).to_dense()
    wide = SampledFisher(actor, observation.expand(3000, -1), generator=oracles.generator(0)).to_dense()
    error = oracles.sampled_fisher_error(actor, observation, 3000)
    assert ((wide - exact).abs() <= 4 * error + 1e-12).all()
