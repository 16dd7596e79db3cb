"""The sub-sampled Fisher matrix, shrunk towards K-FAC's."""

from typing import Any

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor, Stack
from torch import Tensor, nn

from npg import (
    Categorical,
    Damped,
    Distribution,
    ExactFisher,
    InvertibleOperator,
    KroneckerFisher,
    ShrunkFisher,
    SingularMatrixError,
    Status,
    conjugate_gradient,
)

every_family = pytest.mark.parametrize("family", FAMILIES)
# Of 7 states: every one, the strided ones at rows ⌊7 i / m⌋, and one.
STRIDES = {9: range(7), 7: range(7), 5: (0, 1, 2, 4, 5), 3: (0, 2, 4), 1: (0,)}


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


def convolutional(family: str) -> Stack:
    """Two convolutions and a linear layer on images (N, 2, 5, 4)."""
    return Stack(
        family,
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 2, (3, 2), stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, oracles.outputs_of(family)),
    )


# --- the definition --------------------------------------------------------------------------------


@pytest.mark.covering(2)
@every_family
@pytest.mark.parametrize("states", STRIDES)
@pytest.mark.parametrize("shrinkage", [0.02, 0.4, 1])
def test_it_is_the_weighted_sum_of_its_parts(family: str, states: int, shrinkage: float) -> None:
    """(1 − ρ) times the enumerated matrix of the strided states, plus ρ times K-FAC's of all."""
    actor, observations = RandomActor(family), oracles.observations(0, n=7)
    fisher = ShrunkFisher(actor, observations, states=states, shrinkage=shrinkage)
    few = oracles.enumerated_fisher(actor, observations[list(STRIDES[states])])
    dense = (1 - shrinkage) * few + shrinkage * oracles.layerwise(actor, observations)
    equal(fisher.to_dense(), dense)
    assert isinstance(fisher, InvertibleOperator)
    assert (fisher.shape, fisher.dtype) == (dense.shape, torch.float64)


@pytest.mark.covering(2)
@every_family
@pytest.mark.parametrize("shrinkage", [0.02, 0.4])
@pytest.mark.parametrize("damping", [1e-3, 0.1, 2])
def test_damping_and_inverse(family: str, shrinkage: float, damping: float) -> None:
    """K-FAC's own damping by λ/ρ, and the inverse of just that."""
    actor, observations = RandomActor(family), oracles.observations(0, n=7)
    fisher = ShrunkFisher(actor, observations, states=3, shrinkage=shrinkage)
    kronecker = KroneckerFisher(actor, observations)
    few = oracles.enumerated_fisher(actor, observations[[0, 2, 4]])
    dense = (1 - shrinkage) * few + shrinkage * kronecker.damped(damping / shrinkage).to_dense()
    equal(fisher.damped(damping).to_dense(), dense)
    inverse = fisher.inverse(damping)
    equal(inverse.to_dense(), torch.linalg.inv(dense), atol=1e-9)
    v = oracles.randn(1, fisher.size)
    equal(inverse @ (fisher.damped(damping) @ v), v)
    equal(fisher.solve(v, damping), inverse @ v)
    equal(inverse.inverse().to_dense(), dense, atol=1e-9)


@every_family
def test_all_weight_on_k_fac_is_k_fac(family: str) -> None:
    """With ρ = 1, damping and inverse included."""
    actor, observations = RandomActor(family), oracles.observations(0)
    fisher, kronecker = ShrunkFisher(actor, observations, shrinkage=1), KroneckerFisher(actor, observations)
    equal(fisher.to_dense(), kronecker.to_dense())
    equal(fisher.damped(0.1).to_dense(), kronecker.damped(0.1).to_dense())
    equal(fisher.inverse(0.1).to_dense(), kronecker.inverse(0.1).to_dense())


@every_family
def test_no_weight_on_k_fac_is_the_exact_matrix(family: str) -> None:
    """With m = N, matrix and inverse go to those of F as ρ goes to 0, at the pace of ρ and √ρ."""
    actor, observations = RandomActor(family), oracles.observations(0)
    exact = ExactFisher(actor, observations).to_dense()
    inverse = torch.linalg.inv(exact + 0.1 * torch.eye(len(exact)).double())
    for shrinkage in (1e-4, 1e-8, 1e-12):
        fisher = ShrunkFisher(actor, observations, shrinkage=shrinkage)
        assert (fisher.to_dense() - exact).abs().max() < 10 * shrinkage * exact.abs().max()
        error = (fisher.inverse(0.1).to_dense() - inverse).abs().max()
        assert error < 30 * shrinkage**0.5 * inverse.abs().max()


@pytest.mark.parametrize("family", ["gaussian", "categorical"])
def test_convolutions(family: str) -> None:
    """Layers with many positions are a sum over them in either part."""
    actor, images = convolutional(family), oracles.randn(0, 6, 2, 5, 4)
    fisher = ShrunkFisher(actor, images, states=2, shrinkage=0.3)
    few = oracles.enumerated_fisher(actor, images[[0, 3]])
    equal(fisher.to_dense(), 0.7 * few + 0.3 * oracles.layerwise(actor, images))
    v = oracles.randn(1, fisher.size)
    equal(fisher.inverse(0.01) @ (fisher.damped(0.01) @ v), v)


@every_family
def test_micro_batches_change_nothing(family: str) -> None:
    """Neither in K-FAC's part nor in the root scores."""
    actor, observations = RandomActor(family), oracles.observations(0, n=7)
    whole = ShrunkFisher(actor, observations, states=5)
    for size in (1, 3, 100):
        parts = ShrunkFisher(actor, observations, states=5, micro_batch_size=size)
        torch.testing.assert_close(parts.to_dense(), whole.to_dense(), rtol=1e-12, atol=1e-12)


def test_observations_of_several_tensors() -> None:
    """Dictionaries, and tuples within them, are strided as one."""

    class Several(RandomActor):
        def forward(self, observations: Any) -> Distribution:
            return super().forward(observations["a"] + sum(observations["b"]))

    actor, parts = Several("categorical"), [oracles.observations(seed, n=6) for seed in range(3)]
    fisher = ShrunkFisher(actor, {"a": parts[0], "b": tuple(parts[1:])}, states=2)
    whole = ShrunkFisher(RandomActor("categorical"), sum(parts), states=2)
    equal(fisher.to_dense(), whole.to_dense())


# --- as a preconditioner ---------------------------------------------------------------------------


def ill_conditioned(dtype: torch.dtype) -> tuple[Stack, Tensor]:
    """A Gaussian of little variance on observations whose components differ in size, (300, 3)."""
    actor = Stack("gaussian", nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 2))
    nn.init.constant_(actor.log_std, -2.0)
    observations = oracles.observations(0, n=300) * torch.tensor([3.0, 1.0, 0.1])
    return actor.to(dtype), observations.to(dtype)


def test_conjugate_gradient_finds_the_same_in_far_fewer_iterations() -> None:
    """It is a preconditioner: it changes the way, not the end."""
    actor, observations = ill_conditioned(torch.float64)
    operator = Damped(ExactFisher(actor, observations), 1e-2)
    x = oracles.randn(3, operator.size)
    iterations = []
    for preconditioner in (None, ShrunkFisher(actor, observations, states=200).inverse(1e-2)):
        found = conjugate_gradient(
            operator, operator @ x, max_iterations=2000, tolerance=1e-13, preconditioner=preconditioner
        )
        assert found.status is Status.CONVERGED
        equal(found.x, x, atol=1e-8)
        iterations.append(found.iterations)
    assert iterations[1] < iterations[0] / 3


def test_single_precision() -> None:
    """The inverse is right to 10⁻³, and what a natural gradient needs of it comes as fast as in double."""
    actor, observations = ill_conditioned(torch.float32)
    fisher = ShrunkFisher(actor, observations, states=200)
    inverse, v = fisher.inverse(1e-2), oracles.randn(1, fisher.size, dtype=torch.float32)
    error = inverse @ (fisher.damped(1e-2) @ v) - v
    assert torch.linalg.vector_norm(error) < 1e-3 * torch.linalg.vector_norm(v)
    operator = Damped(ExactFisher(actor, observations), 1e-2)
    plain, found = (
        conjugate_gradient(operator, operator @ v, max_iterations=100, tolerance=1e-2, preconditioner=p)
        for p in (None, inverse)
    )
    assert found.status is Status.CONVERGED
    assert found.iterations < plain.iterations / 2


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": 0}, "states must be at least 1"),
        ({"shrinkage": 0}, r"shrinkage must be in \(0, 1\].*got 0"),
        ({"shrinkage": 1.1}, "got 1.1"),
        ({"shrinkage": torch.nan}, "got nan"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_rejected(options: dict, message: str) -> None:
    """By name, with what came."""
    with pytest.raises(ValueError, match=message):
        ShrunkFisher(RandomActor("gaussian"), oracles.observations(0), **options)


def test_no_states_are_rejected() -> None:
    """An empty batch has no Fisher matrix."""
    for size in (None, 2):
        with pytest.raises(ValueError, match="at least one state"):
            ShrunkFisher(RandomActor("gaussian"), oracles.observations(0, n=0), micro_batch_size=size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rejected(dtype: torch.dtype) -> None:
    """As K-FAC rejects it."""
    with pytest.raises(TypeError, match="needs parameters of float32 or float64"):
        ShrunkFisher(RandomActor("gaussian", dtype=dtype), oracles.observations(0, dtype=dtype))


def test_an_actor_that_vmap_does_not_bear() -> None:
    """What depends on data raises TypeError that names the actor and torch.func.vmap."""

    class Branching(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            return super().forward(observations if bool(observations.sum() > 0) else -observations)

    with pytest.raises(TypeError, match=r"runs under torch\.func\.vmap, and Branching does not"):
        ShrunkFisher(Branching("gaussian"), oracles.observations(0))


def test_statistics_that_are_not_finite() -> None:
    """No variance makes the metric infinite, which K-FAC's statistics show first."""
    actor = RandomActor("gaussian")
    nn.init.constant_(actor.log_std, -800.0)
    with pytest.raises(FloatingPointError, match="not finite"):
        ShrunkFisher(actor, oracles.observations(0))


def test_a_parameter_without_effect_needs_damping() -> None:
    """It is singular without, and says so."""

    class Idle(RandomActor):
        def __init__(self) -> None:
            super().__init__("categorical")
            self.idle = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    fisher = ShrunkFisher(Idle(), oracles.observations(0))
    with pytest.raises(SingularMatrixError, match="raise the damping"):
        fisher.inverse()
    assert fisher.inverse(0.1).to_dense().isfinite().all()
    with pytest.raises(ValueError, match="damping must be a finite number"):
        fisher.inverse(-0.1)


def test_a_module_without_kronecker_factors() -> None:
    """Its diagonal stands in for K-FAC's block, with K-FAC's warning that points here; F_m has it whole."""

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.norm = nn.Linear(3, 40), nn.LayerNorm(40)
            self.double()
            oracles.draw_weights_(self, 0)

        def forward(self, observations: Tensor) -> Categorical:
            return Categorical(self.norm(self.hidden(observations)))

    actor, observations = Normalised(), oracles.observations(0)
    with pytest.warns(UserWarning, match="a diagonal block is used") as record:
        fisher = ShrunkFisher(actor, observations, states=2, shrinkage=0.3)
    assert record[0].filename == __file__
    few = oracles.enumerated_fisher(actor, observations[[0, 2]])
    whole = oracles.enumerated_fisher(actor, observations)
    norm = slice(-80, None)
    expected = 0.7 * few[norm, norm] + 0.3 * torch.diag(whole[norm, norm].diagonal())
    equal(fisher.to_dense()[norm, norm], expected)
