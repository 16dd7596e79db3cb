"""Operators against the dense matrices they stand for."""

import math

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg
import torch

from npg import Damped, InvertibleOperator, InvertibleScaled, Scaled, SingularMatrixError, Sum
from npg.fisher.blocks import Diagonal


def operator(dtype: torch.dtype = torch.float64) -> oracles.Dense:
    """A well-conditioned matrix with eigenvalues 1 to 6."""
    return oracles.Dense(oracles.symmetric(torch.arange(1, 7, dtype=dtype)))


def test_to_dense_is_the_matrix() -> None:
    """The columns are the products with the basis, not the rows."""
    matrix = oracles.randn(0, 4, 4)  # not symmetric, so that a transpose shows
    assert torch.equal(oracles.Dense(matrix).to_dense(), matrix)
    assert oracles.Dense(matrix).shape == (4, 4)


@pytest.mark.parametrize("damping", [0.0, 0.1, 3])
def test_damping_adds_a_multiple_of_the_identity(damping: float) -> None:
    """Damped(A, λ) is A + λI, with A's size, dtype and device, and it nests."""
    a = operator(torch.float32)
    damped = Damped(a, damping)
    assert (damped.size, damped.dtype, damped.device) == (a.size, a.dtype, a.device)
    torch.testing.assert_close(damped.to_dense(), a.matrix + damping * torch.eye(6))
    torch.testing.assert_close(Damped(damped, 1.0).to_dense(), a.matrix + (damping + 1) * torch.eye(6))


@pytest.mark.parametrize("damping", [-1e-9, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_rejected(damping: float) -> None:
    """λ is finite and not negative."""
    with pytest.raises(ValueError, match="damping"):
        Damped(operator(), damping)


@pytest.mark.parametrize("shape", [(5,), (7,), (6, 1), (1, 6), (6, 6), ()])
def test_products_need_a_vector_of_the_right_size(shape: tuple[int, ...]) -> None:
    """`@` takes (P,) and nothing that would broadcast."""
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        operator() @ torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scipy_solves_with_the_operator(dtype: torch.dtype) -> None:
    """SciPy's conjugate gradient finds x from b = A x through to_scipy, in the operator's dtype."""
    a = operator(dtype)
    view = a.to_scipy()
    assert view.shape == (6, 6)
    assert view.dtype == np.dtype(str(dtype).removeprefix("torch."))
    x = oracles.randn(3, 6, dtype=dtype)
    solution, info = scipy.sparse.linalg.cg(view, (a.matrix @ x).numpy(), rtol=1e-6, maxiter=50)
    assert info == 0
    torch.testing.assert_close(torch.from_numpy(solution).to(dtype), x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(view @ np.eye(6), a.matrix.numpy(), rtol=1e-6)
    np.testing.assert_allclose(view.H @ np.ones(6), a.matrix.sum(1).numpy(), rtol=1e-4)


class Multiple(InvertibleOperator):
    """The matrix cI, with no more than an implementation has to give."""

    def __init__(self, c: float, size: int = 3):
        super().__init__(size, torch.float64, torch.device("cpu"))
        self.c = c

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """Return c v."""
        return self.c * vector

    def damped(self, damping: float) -> "Multiple":
        """Return (c + λ) I."""
        return Multiple(self.c + damping, self.size)

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["Multiple", dict[str, torch.Tensor]]:
        """Return I / (c + λ)."""
        c = self.c + damping
        return Multiple(1 / c if c else math.inf, self.size), {"a multiple of I": torch.tensor(c != 0)}


def test_an_inverse_gives_a_solve() -> None:
    """`solve(b, λ)` is `inverse(λ) @ b`, with its check of the shape."""
    b = oracles.randn(0, 3)
    torch.testing.assert_close(Multiple(2.0).solve(b, 0.5), b / 2.5)
    torch.testing.assert_close(Multiple(2.0).solve(b), b / 2)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Multiple(2.0).solve(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(SingularMatrixError, match=r"a multiple of I .* at damping 0; raise the damping"):
        Multiple(0.0).inverse()


def test_operators_compose() -> None:
    """2 (A + 3I) + I, by its products and as a dense matrix; sizes and factors are checked."""
    a = oracles.Dense(oracles.symmetric(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)))
    composed = Sum(Scaled(2.0, Damped(a, 3.0)), Multiple(1.0))
    torch.testing.assert_close(composed.to_dense(), 2 * a.matrix + 7 * torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="same size"):
        Sum(a, Multiple(1.0, size=4))
    with pytest.raises(ValueError, match="same size"):
        Sum()
    with pytest.raises(ValueError, match="factor"):
        Scaled(-1.0, a)


def test_a_singular_matrix_is_an_arithmetic_error_that_says_what_to_do() -> None:
    """It names the matrix and the damping."""
    error = SingularMatrixError.at("a block", 1e-3)
    assert isinstance(error, ArithmeticError)
    assert str(error) == "a block of the matrix is singular or not finite at damping 0.001; raise the damping"


@pytest.mark.parametrize("factor", [1e-3, 1.0, 7.0])
def test_a_scaled_matrix_has_a_scaled_inverse(factor: float) -> None:
    """(c A + λI)⁻¹, by the inverse of A + λ/c I; the sum of two is their sum."""
    diagonal = Diagonal(torch.arange(1.0, 7).double())
    scaled = InvertibleScaled(factor, diagonal)
    dense = factor * diagonal.to_dense()
    torch.testing.assert_close(Sum(scaled, Scaled(2.0, diagonal)).to_dense(), dense + 2 * diagonal.to_dense())
    for damping in (0.0, 0.3):
        damped = dense + damping * torch.eye(6).double()
        torch.testing.assert_close(scaled.damped(damping).to_dense(), damped)
        torch.testing.assert_close(scaled.inverse(damping).to_dense(), torch.linalg.inv(damped))


def test_zero_times_a_matrix_has_no_inverse() -> None:
    """`Scaled` takes 0, this does not."""
    with pytest.raises(ValueError, match="positive"):
        InvertibleScaled(0.0, Diagonal(torch.ones(2)))
