"""Couplings, gaps and covariances against dense matrices and closed forms."""

import math
from functools import partial

import oracles
import pytest
import torch
from oracles import FAMILIES, Dense, RandomActor, Table, geometric, within
from torch import Tensor

from npg import (
    Bernoulli,
    DiagGaussian,
    EmpiricalFisher,
    ExactFisher,
    FlatParameters,
    LikelihoodHessian,
    SingularMatrixError,
)
from npg.geometry.diagnostics import (
    Coupling,
    block_coupling,
    parameter_covariance,
    relative_gap,
    standard_error,
)
from npg.geometry.spectrum import Estimate, lanczos, spectrum

every_family = pytest.mark.parametrize("family", FAMILIES)
DAMPING = 0.1


# --- what all of them share --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_product_that_is_not_finite_is_named(bad: float) -> None:
    """NaN and infinity raise, and the message says where to look."""
    operator = Dense(torch.full((3, 3), bad))
    for call in (
        lambda: lanczos(operator, torch.ones(3), 2),
        lambda: spectrum(operator),
        lambda: block_coupling(operator, torch.ones(3), {"all": slice(0, 3)}),
        lambda: relative_gap(operator, Dense(torch.eye(3))),
        lambda: relative_gap(Dense(torch.eye(3)), operator, probes=2),
        lambda: parameter_covariance(operator, 1),
        lambda: standard_error(operator, torch.ones(3), 1),
    ):
        with pytest.raises(FloatingPointError, match="not finite"):
            call()


def test_randomness_is_the_generators_alone() -> None:
    """The global state stays; no generator means the same probes each time; a generator moves on."""
    operator, state = Dense(geometric()), torch.get_rng_state()
    blocks = {"a": slice(0, 20), "b": slice(20, 40)}

    def all_of_it(generator: torch.Generator | None) -> list[float]:
        return [
            spectrum(operator, generator=generator).trace.value,
            block_coupling(
                operator, operator.matrix.diag(), blocks, probes=2, generator=generator
            ).off_diagonal_mass.value,
            relative_gap(operator, Dense(torch.eye(40).double()), probes=2, generator=generator).value,
        ]

    assert all_of_it(None) == all_of_it(None)
    source = oracles.generator(1)
    assert all_of_it(source) != all_of_it(source)
    assert torch.equal(torch.get_rng_state(), state)


# --- coupling of blocks ----------------------------------------------------------------------------


def dense_coupling(matrix: Tensor, blocks: dict[str, slice]) -> tuple[Tensor, Tensor]:
    """Return (M, the mass off the diagonal blocks) from the whole matrix."""
    d = matrix.diag()
    c = matrix / torch.outer(d, d).sqrt()
    c = torch.where(torch.outer(d, d) > 0, c, 0)
    norms = torch.stack([torch.stack([c[i, j].norm() for j in blocks.values()]) for i in blocks.values()])
    own = norms.diag()
    coupling = norms / torch.outer(own, own).sqrt()
    squares = norms.square()
    return coupling, 1 - squares.trace() / squares.sum()


def actor_coupling(family: str, **options: object) -> tuple[Coupling, Tensor, Tensor]:
    """Return the coupling of a random actor's modules, and what the dense matrix says."""
    actor = RandomActor(family)
    fisher = ExactFisher(actor, oracles.observations(0))
    dense, blocks = fisher.to_dense(), FlatParameters(actor).by_module()
    return block_coupling(fisher, dense.diag(), blocks, **options), *dense_coupling(dense, blocks)


@every_family
def test_exact_coupling_is_that_of_the_dense_matrix(family: str) -> None:
    """Matrix and mass, without an error; symmetric, with 1 on the diagonal, at most 1 off it."""
    found, matrix, mass = actor_coupling(family)
    torch.testing.assert_close(found.matrix, matrix, rtol=1e-10, atol=1e-12)
    assert found.off_diagonal_mass.value == pytest.approx(mass.item(), rel=1e-10)
    assert not found.standard_error.any() and found.off_diagonal_mass.standard_error == 0
    assert torch.equal(found.matrix, found.matrix.T)
    torch.testing.assert_close(found.matrix.diag(), torch.ones(len(matrix)).double())
    assert (found.matrix <= 1 + 1e-12).all()


@every_family
def test_probed_coupling_is_within_its_errors(family: str) -> None:
    """Matrix and mass lie within four of their own standard errors, and those shrink as 1/√k."""
    previous = None
    for probes in (32, 256):
        found, matrix, mass = actor_coupling(family, probes=probes, generator=oracles.generator(3))
        assert ((found.matrix - matrix).abs() <= 4 * found.standard_error + 1e-12).all()
        within(found.off_diagonal_mass, mass)
        if previous is not None:
            assert 1.7 < previous / found.off_diagonal_mass.standard_error < 4.7
        previous = found.off_diagonal_mass.standard_error


@pytest.mark.parametrize("probes", [None, 4])
def test_mean_and_scale_are_orthogonal_and_layers_are_not(probes: int | None) -> None:
    """A Gaussian's log_std has coupling 0, to the bit, with every layer; two layers share their curvature."""
    found, _, _ = actor_coupling("gaussian", probes=probes)
    places = {name: i for i, name in enumerate(found.names)}
    assert set(places) == {"", "hidden", "head"}  # log_std belongs to the actor itself
    for layer in ("hidden", "head"):
        assert found.matrix[places[""], places[layer]] == 0
        assert found.matrix[places[layer], places[""]] == 0
    assert found.matrix[places["hidden"], places["head"]] > 0.1
    assert found.off_diagonal_mass.value > 0.01


def test_coupling_has_no_unit() -> None:
    """Measuring each parameter in another unit, F ↦ S F S, changes nothing."""
    matrix, blocks = geometric(12), {"a": slice(0, 5), "b": slice(5, 12)}
    scale = torch.logspace(-3, 3, 12, dtype=torch.float64)
    scaled = scale.diag() @ matrix @ scale.diag()
    one, other = (block_coupling(Dense(m), m.diag(), blocks) for m in (matrix, scaled))
    torch.testing.assert_close(one.matrix, other.matrix, rtol=1e-10, atol=0)


@pytest.mark.parametrize("probes", [None, 3])
def test_a_block_without_curvature_couples_to_nothing(probes: int | None) -> None:
    """Rows where the diagonal is 0 count as 0, without a NaN; a matrix of zeros has no mass."""
    matrix = torch.block_diag(geometric(4), torch.zeros(3, 3).double())
    blocks = {"live": slice(0, 4), "dead": slice(4, 7)}
    found = block_coupling(Dense(matrix), matrix.diag(), blocks, probes=probes)
    assert torch.equal(found.matrix, torch.tensor([[1.0, 0], [0, 0]]).double())
    assert found.off_diagonal_mass.value == 0
    nothing = torch.zeros(7, 7).double()
    found = block_coupling(Dense(nothing), nothing.diag(), blocks, probes=probes)
    assert not found.matrix.any() and found.off_diagonal_mass.value == 0


def test_a_bad_diagonal_is_rejected() -> None:
    """Another shape, a negative or a non-finite entry."""
    blocks = {"all": slice(0, 3)}
    for diagonal in (torch.ones(2), -torch.ones(3), torch.full((3,), torch.nan)):
        with pytest.raises(ValueError, match="expected a diagonal of shape"):
            block_coupling(Dense(torch.eye(3)), diagonal, blocks)
    with pytest.raises(ValueError, match="probes ≥ 1"):
        block_coupling(Dense(torch.eye(3)), torch.ones(3), blocks, probes=0)


# --- distance between two matrices -----------------------------------------------------------------


def test_gap_is_the_dense_gap() -> None:
    """Exact without probes; within four of its errors with them, and those shrink as 1/√k."""
    a, b = geometric(seed=1), geometric(seed=2)
    dense = float((a - b).norm() / b.norm())
    exact = relative_gap(Dense(a), Dense(b))
    assert exact.value == pytest.approx(dense, rel=1e-12) and exact.standard_error == 0
    few, many = (
        relative_gap(Dense(a), Dense(b), probes=k, generator=oracles.generator(4)) for k in (32, 512)
    )
    within(few, dense)
    within(many, dense)
    assert 2.5 < few.standard_error / many.standard_error < 6.5


def test_gaps_at_the_ends() -> None:
    """0 between equals, 1 from nothing, infinite to nothing; two sizes are rejected."""
    a, zero = Dense(geometric()), Dense(torch.zeros(40, 40).double())
    for gap in (relative_gap, partial(relative_gap, probes=3)):
        assert gap(a, a) == Estimate(0, 0)
        assert gap(zero, a).value == 1
        assert gap(a, zero).value == math.inf
        assert gap(zero, zero).value == 0
    with pytest.raises(ValueError, match="same size"):
        relative_gap(a, Dense(torch.eye(3)))


@pytest.mark.parametrize("family", ["gaussian", "categorical"])
@pytest.mark.parametrize("other", [LikelihoodHessian, EmpiricalFisher])
def test_what_data_say_closes_on_the_fisher_matrix(other: type, family: str) -> None:
    """Over actions of the policy itself, the gap falls as 1/√n: 64 times the samples, an eighth of it."""
    actor, states = RandomActor(family), oracles.observations(0)
    fisher, source = ExactFisher(actor, states), oracles.generator(6)

    def gap(repeats: int) -> float:
        many = states.repeat(repeats, 1)
        return relative_gap(other(actor, many, actor(many).sample(source)), fisher).value

    few, many = (sum(gap(repeats) for _ in range(8)) / 8 for repeats in (8, 512))
    assert 5 < few / many < 13
    assert many < 0.15


# --- covariance of estimates -----------------------------------------------------------------------


@pytest.mark.parametrize("family", [DiagGaussian, Bernoulli])
def test_maximum_likelihood_reaches_the_bound(family: type) -> None:
    """Fits to many simulated data sets scatter as F⁻¹/n, entry by entry, within four standard errors."""
    n, fits = 1000, 2000
    truth = (torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.2, -0.5]]).double())
    policy = DiagGaussian(*truth) if family is DiagGaussian else Bernoulli(truth[0])
    fisher = ExactFisher(Table(policy), None)
    shape = [z.expand(fits * n, -1) for z in policy.coordinates]
    data = family(*shape).sample(oracles.generator(7)).reshape(fits, n, 2)
    if family is DiagGaussian:
        estimates = torch.cat([data.mean(1), data.std(1, correction=0).log()], 1)
    else:
        estimates = torch.logit(data.mean(1))
    products = estimates - estimates.mean(0)
    products = products.unsqueeze(1) * products.unsqueeze(2)  # (fits, P, P), their mean the covariance
    error = products.std(0) / math.sqrt(fits)
    assert ((products.mean(0) - parameter_covariance(fisher, n)).abs() <= 4 * error).all()


def test_covariance_is_the_damped_inverse() -> None:
    """(F + λI)⁻¹/n, and 1/n in n."""
    matrix = geometric()
    expected = torch.linalg.inv(matrix + DAMPING * torch.eye(40)) / 7
    torch.testing.assert_close(parameter_covariance(Dense(matrix), 7, damping=DAMPING), expected)


@every_family
def test_standard_error_is_the_square_root_of_the_covariance(family: str) -> None:
    """√(dᵀ Cov d), by conjugate gradient, for any direction, whatever its length."""
    fisher = ExactFisher(RandomActor(family), oracles.observations(0))
    covariance = parameter_covariance(fisher, 50, damping=DAMPING)
    direction = oracles.randn(8, fisher.size)
    expected = float((direction @ covariance @ direction).sqrt())
    for scale in (1e-6, 1.0, 1e6):
        error = standard_error(fisher, scale * direction, 50, damping=DAMPING)
        assert error == pytest.approx(scale * expected, rel=1e-6)
    assert standard_error(fisher, torch.zeros(fisher.size).double(), 50, damping=DAMPING) == 0


def test_a_singular_matrix_says_what_to_do() -> None:
    """Logits have one direction that changes nothing; a direction without it still has its error."""
    policy = Table(oracles.Categorical(oracles.randn(9, 1, 4)))
    fisher = ExactFisher(policy, None)
    with pytest.raises(SingularMatrixError, match=r"singular.*raise damping"):
        parameter_covariance(fisher, 10)
    with pytest.raises(SingularMatrixError, match=r"singular.*raise damping"):
        standard_error(fisher, torch.ones(4).double(), 10)
    contrast = torch.tensor([1.0, -1, 0, 0]).double()
    p = policy().logits.softmax(-1).detach().flatten()
    assert standard_error(fisher, contrast, 10) == pytest.approx(
        math.sqrt((1 / p[0] + 1 / p[1]) / 10), rel=1e-5
    )
    assert parameter_covariance(fisher, 10, damping=1e-3).isfinite().all()


def test_too_few_iterations_are_not_passed_off_as_an_answer() -> None:
    """Conjugate gradient that stopped early raises with its residual."""
    with pytest.raises(SingularMatrixError, match="max_iterations with relative residual"):
        standard_error(Dense(geometric()), oracles.randn(0, 40), 10, max_iterations=2)


@pytest.mark.parametrize("n", [0, -1])
def test_no_samples_tell_nothing(n: int) -> None:
    """Fewer than one sample is rejected, and so is a negative damping."""
    operator = Dense(torch.eye(2))
    for call in (
        partial(parameter_covariance, operator),
        partial(standard_error, operator, torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="n ≥ 1"):
            call(n)
        with pytest.raises(ValueError, match="damping"):
            call(1, damping=-1.0)
