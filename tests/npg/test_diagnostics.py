"""Spectra, couplings, gaps and covariances against dense matrices and closed forms."""

import math
from functools import partial

import oracles
import pytest
import torch
from oracles import FAMILIES, Dense, RandomActor, Table, symmetric
from torch import Tensor

from npg import (
    Bernoulli,
    DiagGaussian,
    EmpiricalFisher,
    ExactFisher,
    FlatParameters,
    LikelihoodHessian,
)
from npg.diagnostics import (
    Coupling,
    Estimate,
    block_coupling,
    lanczos,
    parameter_covariance,
    relative_gap,
    spectrum,
    standard_error,
)

every_family = pytest.mark.parametrize("family", FAMILIES)
DAMPING = 0.1


def within(estimate: Estimate, truth: float, errors: float = 4) -> None:
    """Assert that an estimate lies within so many of its own standard errors."""
    assert abs(estimate.value - truth) <= errors * estimate.standard_error


def geometric(size: int = 40, seed: int = 0) -> Tensor:
    """Return a matrix whose eigenvalues fall from 1 to 1e-4."""
    return symmetric(torch.logspace(0, -4, size, dtype=torch.float64), seed)


# --- Lanczos ---------------------------------------------------------------------------------------


def test_lanczos_is_a_similarity_on_the_whole_space() -> None:
    """After P steps T has the eigenvalues of A, and Gauss quadrature gives qᵀf(A)q exactly."""
    matrix, start = geometric(), oracles.randn(1, 40)
    tridiagonal = lanczos(Dense(matrix), start, 40)
    nodes, weights = tridiagonal.quadrature()
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(nodes, values, rtol=0, atol=1e-13)
    assert math.isclose(weights.sum(), 1, rel_tol=1e-12)
    unit = start / start.norm()
    exact = ((vectors.T @ unit).square() * values.sqrt()).sum()
    torch.testing.assert_close((weights * nodes.clamp(min=0).sqrt()).sum(), exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_gauss_quadrature_matches_moments(steps: int) -> None:
    """M steps make the moments qᵀAᵏq of degree k ≤ 2M − 1 exact."""
    matrix, start = geometric(), oracles.randn(2, 40)
    nodes, weights = lanczos(Dense(matrix), start, steps).quadrature()
    power = unit = start / start.norm()
    for k in range(2 * steps):
        assert math.isclose((weights * nodes**k).sum(), unit @ power, rel_tol=1e-11)
        power = matrix @ power


def test_the_residual_bounds_the_distance_to_an_eigenvalue() -> None:
    """Every Ritz value has an eigenvalue within ‖AQ − QT‖."""
    matrix = geometric()
    eigenvalues = torch.linalg.eigvalsh(matrix)
    for steps in (2, 5, 12):
        tridiagonal = lanczos(Dense(matrix), oracles.randn(3, 40), steps)
        nodes, _ = tridiagonal.quadrature()
        distance = (nodes.unsqueeze(1) - eigenvalues).abs().amin(1)
        assert (distance <= tridiagonal.residual + 1e-14).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_invariant_subspace_ends_it(dtype: torch.dtype) -> None:
    """With three distinct eigenvalues it makes three products and finds those three, each once."""
    distinct = torch.tensor([0.5, 2.0, 7.0])
    operator = Dense(symmetric(distinct.repeat_interleave(10).double(), 3).to(dtype))
    tridiagonal = lanczos(operator, oracles.randn(0, 30, dtype=dtype), 30)
    assert operator.products == 3
    assert tridiagonal.residual <= 1e-5
    nodes, _ = tridiagonal.quadrature()
    torch.testing.assert_close(nodes, distinct.double(), rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_many_steps_bring_no_copies() -> None:
    """A dominant eigenvalue is found once, however long the recurrence runs on."""
    values = torch.cat([torch.logspace(-6, -3, 59), torch.tensor([1e3])]).double()
    nodes, _ = lanczos(Dense(symmetric(values, 4)), oracles.randn(5, 60), 60).quadrature()
    torch.testing.assert_close(nodes, values, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(torch.zeros(5, 5), [0.0]), (torch.eye(5), [1.0]), (torch.full((1, 1), -3.0), [-3.0])],
)
def test_smallest_cases(matrix: Tensor, expected: list[float]) -> None:
    """The zero matrix, the identity and a matrix of size 1 take a single step."""
    operator = Dense(matrix.double())
    nodes, weights = lanczos(operator, oracles.randn(0, len(matrix)), 10).quadrature()
    torch.testing.assert_close(nodes, torch.tensor(expected).double())
    torch.testing.assert_close(weights, torch.ones(1).double())
    assert operator.products == 1


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


@pytest.mark.parametrize(
    ("start", "steps"),
    [(torch.zeros(3), 2), (torch.ones(2), 2), (torch.full((3,), torch.nan), 2), (torch.ones(3), 0)],
)
def test_a_bad_start_is_refused(start: Tensor, steps: int) -> None:
    """Zero, NaN, another length, and no step at all."""
    with pytest.raises(ValueError, match="Lanczos needs a finite start"):
        lanczos(Dense(torch.eye(3)), start, steps)


# --- spectrum --------------------------------------------------------------------------------------


@every_family
def test_extremes_are_those_of_the_dense_fisher(family: str) -> None:
    """With a step for every eigenvalue, largest, smallest and condition are eigvalsh's."""
    fisher = ExactFisher(RandomActor(family), oracles.observations(0))
    eigenvalues = torch.linalg.eigvalsh(fisher.to_dense())
    found = spectrum(fisher, steps=fisher.size, probes=2)
    assert math.isclose(found.largest, eigenvalues[-1], rel_tol=1e-10)
    assert abs(found.smallest - eigenvalues[0]) <= 1e-10 * eigenvalues[-1]
    ratio = (eigenvalues[-1] + DAMPING) / (eigenvalues[0] + DAMPING)
    assert math.isclose(found.condition(DAMPING), ratio, rel_tol=1e-8)


def test_few_steps_stay_inside_the_spectrum() -> None:
    """No Ritz value leaves [λ_min, λ_max], and the largest is right to a percent after ten steps."""
    matrix = geometric()
    eigenvalues = torch.linalg.eigvalsh(matrix)
    found = spectrum(Dense(matrix), steps=10, probes=3)
    assert eigenvalues[0] <= found.smallest <= found.largest <= eigenvalues[-1] + 1e-14
    assert found.largest >= 0.99 * eigenvalues[-1]


@every_family
def test_effective_dimension_and_trace_are_within_their_errors(family: str) -> None:
    """Both lie within four of their own standard errors of the dense values."""
    fisher = ExactFisher(RandomActor(family), oracles.observations(0, n=12))
    eigenvalues = torch.linalg.eigvalsh(fisher.to_dense())
    found = spectrum(fisher, steps=fisher.size, probes=24, generator=oracles.generator(1))
    dimension = found.effective_dimension(DAMPING)
    within(dimension, (eigenvalues / (eigenvalues + DAMPING)).sum())
    within(found.trace, eigenvalues.sum())
    assert 0 < dimension.standard_error < 0.15 * dimension.value


def test_the_error_shrinks_with_the_root_of_the_probes() -> None:
    """16 times as many probes, a quarter of the error; and the stated error is the scatter that one sees."""
    operator = Dense(geometric())
    source = oracles.generator(2)
    runs = {k: [spectrum(operator, steps=10, probes=k, generator=source) for _ in range(8)] for k in (8, 128)}
    dimensions = {k: [one.effective_dimension(DAMPING) for one in found] for k, found in runs.items()}
    stated = {k: torch.tensor([d.standard_error for d in ds]).mean() for k, ds in dimensions.items()}
    assert 3 < stated[8] / stated[128] < 5.3
    scatter = torch.tensor([d.value for d in dimensions[8]]).std()
    assert 0.5 < scatter / stated[8] < 2


def test_few_steps_overestimate_the_effective_dimension() -> None:
    """With the same probes it falls, step by step, to its exact value."""
    operator = Dense(geometric())
    values = [spectrum(operator, steps=m).effective_dimension(1e-3).value for m in (1, 2, 4, 8, 16, 40)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 1.3 * values[-1]


def test_effective_dimension_counts_directions() -> None:
    """Of a projection, r / (1 + λ): between 0 and P, and the rank as λ → 0."""
    eigenvalues = torch.cat([torch.zeros(20), torch.ones(10)]).double()
    found = spectrum(Dense(symmetric(eigenvalues)), probes=200)
    for damping in (1e-6, 1.0, 1e6):
        within(found.effective_dimension(damping), 10 / (1 + damping))
    assert found.condition(1.0) == pytest.approx(2)
    assert spectrum(Dense(torch.zeros(4, 4))).condition() == math.inf
    assert spectrum(Dense(-torch.eye(4))).condition(0.5) == math.inf


def test_probes_of_different_length_share_one_table() -> None:
    """A probe that is an eigenvector ends after one step; its row is filled up at no weight."""
    operator = Dense(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))  # (1, 1) and (1, -1) are eigenvectors
    found = spectrum(operator, probes=20)
    assert found.values.shape == found.weights.shape == (20, 1)
    operator = Dense(torch.block_diag(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.full((1, 1), 3.0)))
    found = spectrum(operator, probes=20)  # (1, 1, ±1) is an eigenvector of 3, (1, -1, 1) is none
    assert found.values.shape == (20, 2)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(20).double())
    assert (found.largest, found.smallest) == pytest.approx((3, 1))


def test_one_probe_knows_no_error() -> None:
    """Its standard error is infinite, not 0."""
    assert spectrum(Dense(geometric()), probes=1).trace.standard_error == math.inf


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


def test_single_precision_agrees_with_double() -> None:
    """A float32 operator gives the extremes and the effective dimension to float32's accuracy."""
    matrix = geometric()
    double, single = (
        spectrum(Dense(matrix.to(t)), steps=40, probes=4) for t in (torch.float64, torch.float32)
    )
    assert single.values.dtype is torch.float64
    assert single.largest == pytest.approx(double.largest, rel=1e-5)
    assert single.smallest == pytest.approx(double.smallest, abs=1e-5)
    assert single.effective_dimension(DAMPING).value == pytest.approx(
        double.effective_dimension(DAMPING).value, rel=1e-4
    )


def test_options_out_of_range_are_refused() -> None:
    """No probe, and a damping without which the effective dimension is only a rank."""
    with pytest.raises(ValueError, match="probes ≥ 1"):
        spectrum(Dense(torch.eye(3)), probes=0)
    found = spectrum(Dense(torch.eye(3)))
    for damping in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="damping"):
            found.effective_dimension(damping)
    with pytest.raises(ValueError, match="damping"):
        found.condition(-1.0)


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


def test_a_bad_diagonal_is_refused() -> None:
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
    """0 between equals, 1 from nothing, infinite to nothing; two sizes are refused."""
    a, zero = Dense(geometric()), Dense(torch.zeros(40, 40).double())
    for gap in (relative_gap, partial(relative_gap, probes=3)):
        assert gap(a, a) == Estimate(0, 0)
        assert gap(zero, a).value == 1
        assert gap(a, zero).value == math.inf
        assert gap(zero, zero).value == 0
    with pytest.raises(ValueError, match="one size"):
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
    with pytest.raises(torch.linalg.LinAlgError, match=r"singular.*raise damping"):
        parameter_covariance(fisher, 10)
    with pytest.raises(torch.linalg.LinAlgError, match=r"singular.*raise damping"):
        standard_error(fisher, torch.ones(4).double(), 10)
    contrast = torch.tensor([1.0, -1, 0, 0]).double()
    p = policy().logits.softmax(-1).detach().flatten()
    assert standard_error(fisher, contrast, 10) == pytest.approx(
        math.sqrt((1 / p[0] + 1 / p[1]) / 10), rel=1e-5
    )
    assert parameter_covariance(fisher, 10, damping=1e-3).isfinite().all()


def test_too_few_iterations_are_not_passed_off_as_an_answer() -> None:
    """Conjugate gradient that stopped early raises with its residual."""
    with pytest.raises(torch.linalg.LinAlgError, match="max_iterations with relative residual"):
        standard_error(Dense(geometric()), oracles.randn(0, 40), 10, max_iterations=2)


@pytest.mark.parametrize("n", [0, -1])
def test_no_samples_tell_nothing(n: int) -> None:
    """Fewer than one sample is refused, and so is a negative damping."""
    operator = Dense(torch.eye(2))
    for call in (
        partial(parameter_covariance, operator),
        partial(standard_error, operator, torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="n ≥ 1"):
            call(n)
        with pytest.raises(ValueError, match="damping"):
            call(1, damping=-1.0)
