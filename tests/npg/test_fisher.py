"""One matrix, four ways: two operators, enumerated scores, expected second derivatives."""

import math

import oracles
import pytest
import scipy.sparse.linalg
import torch
from oracles import FAMILIES, RandomActor
from torch import Tensor, nn

from npg import Bernoulli, Categorical, Damped, DiagGaussian, ExactFisher, KLHessian

OPERATORS = (ExactFisher, KLHessian)
every_family = pytest.mark.parametrize("family", FAMILIES)
both = pytest.mark.parametrize("operator", OPERATORS)


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


@every_family
@pytest.mark.parametrize("seed", [0, 1])
def test_four_ways_to_one_matrix(family: str, seed: int) -> None:
    """ExactFisher = KLHessian = E[s sᵀ] = −E[∇² log π], entry by entry."""
    actor, observations = RandomActor(family, seed), oracles.observations(seed)
    dense = ExactFisher(actor, observations).to_dense()
    assert dense.abs().max() > 1e-2
    equal(dense, KLHessian(actor, observations).to_dense())
    equal(dense, oracles.enumerated_fisher(actor, observations))
    equal(dense, oracles.negative_expected_hessian(actor, observations))


@both
@every_family
def test_symmetric_and_positive_semi_definite(family: str, operator: type) -> None:
    """F = Fᵀ, and its smallest eigenvalue is zero or more up to rounding."""
    dense = operator(RandomActor(family), oracles.observations(0)).to_dense()
    equal(dense, dense.T, atol=1e-14)
    eigenvalues = torch.linalg.eigvalsh((dense + dense.T) / 2)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@both
@every_family
def test_products_are_repeatable_and_linear(family: str, operator: type) -> None:
    """The same vector twice gives the same bits, and F(au + bv) = aFu + bFv."""
    fisher = operator(RandomActor(family), oracles.observations(0))
    u, v = oracles.randn(1, fisher.size), oracles.randn(2, fisher.size)
    first = fisher @ u
    equal(fisher @ (3 * u - 2 * v), 3 * first - 2 * (fisher @ v), atol=1e-12)
    assert torch.equal(fisher @ u, first)
    assert not first.requires_grad
    assert (fisher.shape, fisher.dtype) == ((fisher.size, fisher.size), torch.float64)


@both
def test_it_stands_for_the_parameters_at_construction(operator: type) -> None:
    """A later gradient, no_grad context or other operator changes no product; a new operator sees new θ."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    expected = operator(actor, observations).to_dense()
    with torch.no_grad():
        fisher = operator(actor, observations)
        equal(fisher.to_dense(), expected, atol=0)
    actor(observations).entropy().sum().backward()
    equal(fisher.to_dense(), expected, atol=0)
    torch.nn.init.ones_(actor.head.weight)
    equal(operator(actor, observations).to_dense(), oracles.enumerated_fisher(actor, observations))


@both
def test_no_randomness_and_no_gradient_is_touched(operator: type) -> None:
    """Construction and products leave the generator, the parameters and their .grad as they were."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    state, before = torch.get_rng_state(), oracles.flat_parameters(actor)
    operator(actor, observations).to_dense()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(oracles.flat_parameters(actor), before)
    assert all(p.grad is None for p in actor.parameters())


@both
@every_family
def test_scipy_solves_with_it(family: str, operator: type) -> None:
    """SciPy's conjugate gradient inverts the damped operator through to_scipy."""
    fisher = Damped(operator(RandomActor(family), oracles.observations(0)), 0.1)
    b = oracles.randn(3, fisher.size)
    x, info = scipy.sparse.linalg.cg(fisher.to_scipy(), b.numpy(), rtol=1e-10, maxiter=500)
    assert info == 0
    equal(torch.from_numpy(x), torch.linalg.solve(fisher.to_dense(), b), atol=1e-7)


@both
@every_family
def test_reduce_sees_every_product(family: str, operator: type) -> None:
    """A doubling `reduce` doubles F; two half batches, averaged, are the whole batch."""
    actor, observations = RandomActor(family), oracles.observations(0, n=8)
    whole = operator(actor, observations).to_dense()
    equal(operator(actor, observations, reduce=lambda t: 2 * t).to_dense(), 2 * whole)
    halves = [operator(actor, half) for half in observations.chunk(2)]
    v, sent = oracles.randn(4, halves[0].size), []
    local = [operator(actor, half, reduce=lambda t: sent.append(t) or t) for half in observations.chunk(2)]
    for fisher in local:
        fisher @ v
    assert len(sent) == 2
    equal(sum(sent) / 2, whole @ v)
    equal(sum(half @ v for half in halves) / 2, whole @ v)


@both
def test_unused_parameters_have_zero_rows(operator: type) -> None:
    """What the forward never reads gets zero rows and columns, and disturbs no other entry."""
    actor, observations = RandomActor("bernoulli"), oracles.observations(0)
    expected = operator(actor, observations).to_dense()
    actor.unused = nn.Linear(2, 2).double()
    dense = operator(actor, observations).to_dense()
    size = len(expected)
    equal(dense[:size, :size], expected, atol=0)
    assert not dense[size:].any()
    assert not dense[:, size:].any()


@both
def test_frozen_parameters_are_left_out(operator: type) -> None:
    """Freezing log_std removes its rows and columns and nothing else."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    kept = torch.ones(oracles.flat_parameters(actor).numel(), dtype=torch.bool)
    place = [name for name, _ in actor.named_parameters()].index("log_std")
    start = sum(p.numel() for p in list(actor.parameters())[:place])
    kept[start : start + 2] = False
    expected = operator(actor, observations).to_dense()[kept][:, kept]
    actor.log_std.requires_grad_(False)
    equal(operator(actor, observations).to_dense(), expected, atol=0)


@both
@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_forbidden_choices_change_nothing_else(family: str, operator: type) -> None:
    """With one more choice at logit −∞ the matrix is finite and the same."""

    class Masked(RandomActor):
        def forward(self, observations: Tensor) -> object:
            distribution = super().forward(observations)
            shut = [nn.functional.pad(z, (0, 1), value=-torch.inf) for z in distribution.coordinates]
            return type(distribution)(shut if family == "multi_categorical" else shut[0])

    observations = oracles.observations(0)
    equal(
        operator(Masked(family), observations).to_dense(),
        operator(RandomActor(family), observations).to_dense(),
    )


@both
def test_the_mean_is_over_states_and_the_sum_over_dimensions(operator: type) -> None:
    """N(θ, 1) in A dimensions has Fisher matrix I, whatever N and A: no division by A, none by N."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(5))

        def forward(self, observations: Tensor) -> DiagGaussian:
            return DiagGaussian(self.mean.expand(len(observations), 5), torch.zeros(5))

    for n in (1, 4):
        assert torch.equal(operator(Mean(), torch.zeros(n, 1)).to_dense(), torch.eye(5))


@pytest.mark.parametrize("family", ["gaussian", "categorical", "bernoulli"])
def test_sampled_scores_converge_to_it(family: str) -> None:
    """The mean of sampled s sᵀ agrees within four of its standard errors, and those shrink as 1/√n."""
    actor, observation = RandomActor(family, 2), oracles.observations(2, n=1)
    exact = ExactFisher(actor, observation).to_dense()
    states, source = observation.expand(250, -1), oracles.generator(5)
    draws = (actor(states).sample(source) for _ in range(20))
    scores = torch.cat([oracles.scores(actor, states, actions) for actions in draws])
    for n in (500, 5000):
        s = scores[:n]
        mean = s.T @ s / n
        error = ((s.square().T @ s.square() / n - mean.square()).clamp(min=0) / n).sqrt()
        assert ((mean - exact).abs() <= 4 * error + 1e-12).all()
        assert error.max() < 5 * exact.abs().max() / math.sqrt(n)


@both
@every_family
def test_single_precision_agrees_with_double(family: str, operator: type) -> None:
    """In float32 the matrix is right to 1e-5 of its largest entry, and its products are float32."""
    exact = operator(RandomActor(family), oracles.observations(0)).to_dense()
    single = operator(
        RandomActor(family, dtype=torch.float32), oracles.observations(0, dtype=torch.float32)
    ).to_dense()
    assert single.dtype is torch.float32
    assert (single.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


@both
def test_an_empty_batch_is_refused(operator: type) -> None:
    """No state has no mean."""
    for family in FAMILIES:
        with pytest.raises(ValueError, match="at least one state"):
            operator(RandomActor(family), torch.zeros(0, 3, dtype=torch.float64))


@both
def test_an_actor_must_return_an_npg_distribution(operator: type) -> None:
    """A tensor or a torch distribution is refused by name, and so is an actor with nothing to train."""

    class Torch(nn.Linear):
        def forward(self, x: Tensor) -> object:
            return torch.distributions.Categorical(logits=super().forward(x))

    for actor, name in ((nn.Linear(3, 2), "Tensor"), (Torch(3, 2), "Categorical")):
        with pytest.raises(TypeError, match=f"must return an npg distribution.*got {name}"):
            operator(actor, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no trainable parameter"):
        operator(RandomActor("categorical").requires_grad_(False), oracles.observations(0))


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_extra_batch_dimensions_are_states(family: type) -> None:
    """Coordinates (T, B, K) are T · B states."""

    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> object:
            return family(super().forward(x))

    actor, x = Linear(3, 4).double(), oracles.observations(0, n=6)
    for operator in OPERATORS:
        equal(operator(actor, x.reshape(2, 3, 3)).to_dense(), operator(actor, x).to_dense())


@both
def test_an_actor_without_reach_is_refused(operator: type) -> None:
    """A trainable parameter that does not reach the distribution leaves nothing to differentiate."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(1))

        def forward(self, observations: torch.Tensor) -> Categorical:
            return Categorical(torch.zeros(len(observations), 2))

    with pytest.raises(ValueError, match="no trainable parameter of the actor reaches"):
        operator(Constant(), torch.zeros(3, 1))
