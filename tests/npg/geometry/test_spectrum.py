"""Lanczos and the spectrum against dense matrices and closed forms."""

import math

import oracles
import pytest
import torch
from oracles import FAMILIES, Dense, RandomActor, geometric, symmetric, within
from torch import Tensor

from npg import ExactFisher
from npg.geometry.spectrum import lanczos, spectrum

every_family = pytest.mark.parametrize("family", FAMILIES)
DAMPING = 0.1


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


@pytest.mark.parametrize(
    ("start", "steps"),
    [(torch.zeros(3), 2), (torch.ones(2), 2), (torch.full((3,), torch.nan), 2), (torch.ones(3), 0)],
)
def test_a_bad_start_is_rejected(start: Tensor, steps: int) -> None:
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


def test_options_out_of_range_are_rejected() -> None:
    """No probe, and a damping without which the effective dimension is only a rank."""
    with pytest.raises(ValueError, match="probes ≥ 1"):
        spectrum(Dense(torch.eye(3)), probes=0)
    found = spectrum(Dense(torch.eye(3)))
    for damping in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="damping"):
            found.effective_dimension(damping)
    with pytest.raises(ValueError, match="damping"):
        found.condition(-1.0)


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e30])
def test_the_scale_of_a_matrix_does_not_overflow_in_float32(size: float) -> None:
    """Eigenvalues and traces of c A are c times those of A, within the range of float32."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0]))
    small, large = (spectrum(Dense(c * matrix), steps=3, probes=2) for c in (1.0, size))
    assert large.largest == pytest.approx(size * small.largest, rel=1e-5, abs=0)
    assert large.smallest == pytest.approx(size * small.smallest, rel=1e-5, abs=0)
    assert large.trace.value == pytest.approx(size * small.trace.value, rel=1e-5, abs=0)
    start = torch.tensor([1.0, 2.0, 3.0])
    scaled, plain = (lanczos(Dense(c * matrix), start, 2).residual for c in (size, 1.0))
    assert scaled == pytest.approx(size * plain, rel=1e-5, abs=0)
    for c in (1e-30, 1e30):
        ours, plain = lanczos(Dense(matrix), c * start, 3), lanczos(Dense(matrix), start, 3)
        torch.testing.assert_close(ours.diagonal, plain.diagonal, rtol=1e-5, atol=0)
