"""Matrices with an inverse in closed form, against dense ones."""

import oracles
import pytest
import torch
from torch import Tensor

from npg import InvertibleOperator, SingularMatrixError
from npg.fisher.blocks import BlockDiagonal, Dense, Diagonal, inverse_of
from npg.fisher.kronecker import Kronecker, RotatedDiagonal, balance_of


def positive(size: int, seed: int = 0) -> Tensor:
    """A symmetric positive definite matrix."""
    return oracles.symmetric(torch.linspace(0.5, 3, size, dtype=torch.float64), seed)


def basis(size: int, seed: int = 0) -> Tensor:
    """An orthonormal basis."""
    return torch.linalg.qr(oracles.randn(seed, size, size))[0]


def equal(a: Tensor, b: Tensor, atol: float = 1e-11) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


KRONECKER = [Kronecker(positive(4), positive(3, 1), split_bias=split) for split in (False, True)]
ROTATED = [
    RotatedDiagonal(basis(4), basis(3, 1), oracles.randn(2, 3, 4).square(), split_bias=split)
    for split in (False, True)
]
BLOCKS = [Diagonal(oracles.randn(0, 5).exp()), Dense(positive(6)), *KRONECKER, *ROTATED]
every_block = pytest.mark.parametrize("block", [*BLOCKS, BlockDiagonal(BLOCKS)])


@every_block
def test_blocks_are_symmetric_operators(block: InvertibleOperator) -> None:
    """Size, dtype and device are those of the matrix, which is symmetric."""
    dense = block.to_dense()
    assert (dense.shape, block.dtype, block.device) == (block.shape, torch.float64, dense.device)
    equal(dense, dense.T)


@pytest.mark.parametrize("block", [*BLOCKS[:2], *ROTATED, BlockDiagonal([*BLOCKS[:2], *ROTATED])])
@pytest.mark.parametrize("damping", [0.0, 0.3, 10])
def test_the_inverse_is_exact(block: InvertibleOperator, damping: float) -> None:
    """`inverse(λ)` is the dense inverse of the block plus λI, but for Kronecker's factored damping."""
    dense = block.to_dense() + damping * torch.eye(block.size).double()
    equal(block.damped(damping).to_dense(), dense)
    equal(block.inverse(damping).to_dense(), torch.linalg.inv(dense), atol=1e-8)


@pytest.mark.parametrize("split", [False, True])
def test_kronecker_is_the_dense_product(split: bool) -> None:
    """A ⊗ G in the order of the layer's flat vector: the rows of the weight, then the bias."""
    A, G = positive(4), positive(3, 1)
    equal(Kronecker(A, G, split_bias=split).to_dense(), oracles.kronecker(A, G, split))


@pytest.mark.parametrize("split", [False, True])
def test_a_rotated_diagonal_is_the_sum_over_its_eigenvectors(split: bool) -> None:
    """U diag(S) Uᵀ = Σ S_ij u_ij u_ijᵀ with u_ij = vec(g_i a_jᵀ)."""
    block = ROTATED[split]
    places = oracles.layer_places(3, 4, split)
    dense = torch.zeros(12, 12, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            u = torch.empty(12, dtype=torch.float64)
            u[places] = torch.outer(block.output_basis[:, i], block.input_basis[:, j])
            dense += block.scales[i, j] * torch.outer(u, u)
    equal(block.to_dense(), dense)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("damping", [1e-4, 0.1, 3])
def test_factored_tikhonov_damping(split: bool, damping: float) -> None:
    """(A + π√λ I) ⊗ (G + √λ/π I), with π² the ratio of the mean eigenvalues; `inverse` inverts that."""
    A, G = 7 * positive(4), positive(3, 1)
    pi = ((A.trace() / 4) / (G.trace() / 3)).sqrt()
    root = damping**0.5
    shifted = A + pi * root * torch.eye(4).double(), G + root / pi * torch.eye(3).double()
    block = Kronecker(A, G, split_bias=split)
    equal(block.damped(damping).to_dense(), oracles.kronecker(*shifted, split))
    v = oracles.randn(0, 12)
    equal(block.inverse(damping) @ (block.damped(damping) @ v), v)
    equal(block.solve(block.damped(damping) @ v, damping), v)
    assert balance_of(A, G) == pytest.approx(float(pi), rel=1e-12)


def test_the_balance_makes_the_two_shifts_alike() -> None:
    """Scaling A by c and G by 1/c changes neither A ⊗ G nor its damped form."""
    A, G = positive(4), positive(3, 1)
    for c in (1e-6, 1e6):
        scaled = Kronecker(c * A, G / c, split_bias=False)
        equal(scaled.damped(0.2).to_dense(), Kronecker(A, G, split_bias=False).damped(0.2).to_dense())


def test_a_factor_that_vanishes_has_balance_one() -> None:
    """With G = 0, a dead layer, the damped block is (A + √λ I) ⊗ √λ I and has an inverse."""
    block = Kronecker(positive(2), torch.zeros(3, 3, dtype=torch.float64), split_bias=False)
    expected = oracles.kronecker(
        positive(2) + 0.5 * torch.eye(2).double(), 0.5 * torch.eye(3).double(), False
    )
    equal(block.damped(0.25).to_dense(), expected)
    equal(block.inverse(0.25).to_dense(), torch.linalg.inv(expected))


def singular(kind: str, dtype: torch.dtype) -> InvertibleOperator:
    """A block of rank one less than full, not along a coordinate."""
    eigenvalues = torch.tensor([0.0, 1, 2, 3], dtype=torch.float64)
    matrix = oracles.symmetric(eigenvalues, 3).to(dtype)
    if kind == "dense":
        return Dense(matrix)
    if kind == "diagonal":
        return Diagonal(eigenvalues.to(dtype))
    if kind == "inputs":
        return Kronecker(matrix, positive(3).to(dtype), split_bias=True)
    if kind == "outputs":
        return Kronecker(positive(3).to(dtype), matrix, split_bias=True)
    if kind == "rotated":
        scales = oracles.randn(0, 3, 4).square()
        scales[0, 0] = 0
        return RotatedDiagonal(basis(4).to(dtype), basis(3).to(dtype), scales.to(dtype), split_bias=True)
    return BlockDiagonal([Diagonal(torch.ones(2, dtype=dtype)), Dense(matrix)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "inputs", "outputs", "rotated", "composed"])
def test_a_singular_matrix_is_rejected(kind: str, dtype: torch.dtype) -> None:
    """Without damping it has no inverse, which is said; with damping it has."""
    block = singular(kind, dtype)
    with pytest.raises(SingularMatrixError, match="singular or not finite at damping 0; raise the damping"):
        block.inverse()
    with pytest.raises(SingularMatrixError):
        block.solve(torch.ones(block.size, dtype=dtype))
    assert block.inverse(0.1).to_dense().isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "inputs", "outputs", "rotated"])
def test_a_matrix_that_is_not_finite_is_rejected(kind: str, bad: float) -> None:
    """NaN and infinity have no inverse at any damping."""
    block = singular(kind, torch.float64)
    attribute = {"dense": "matrix", "rotated": "scales"}.get(kind, kind)
    getattr(block, attribute).view(-1)[-1] = bad
    with pytest.raises(SingularMatrixError, match=r"not finite at damping 0\.1"):
        block.inverse(0.1)


def test_a_diagonal_of_denormal_numbers_is_singular() -> None:
    """Its inverse would overflow."""
    with pytest.raises(SingularMatrixError):
        Diagonal(torch.tensor([1.0, 1e-310], dtype=torch.float64)).inverse()


@every_block
@pytest.mark.parametrize("damping", [-1e-9, torch.nan, torch.inf])
def test_a_damping_out_of_range_is_rejected(block: InvertibleOperator, damping: float) -> None:
    """λ is finite and not negative."""
    with pytest.raises(ValueError, match="damping must be a finite number"):
        block.inverse(damping)


@every_block
def test_neither_product_nor_inverse_changes_the_block(block: InvertibleOperator) -> None:
    """The matrix is bitwise the same after an inverse, and so is an inverse after another."""
    before, inverse = block.to_dense(), block.inverse(0.1)
    first = inverse.to_dense()
    block.inverse(5)
    assert torch.equal(block.to_dense(), before)
    assert torch.equal(inverse.to_dense(), first)


@every_block
@pytest.mark.parametrize("damping", [1e-2, 0.3, 10])
def test_the_inverse_is_that_of_the_damped_block(block: InvertibleOperator, damping: float) -> None:
    """`inverse(λ) @ (damped(λ) @ v) = v`, also where damping is no plain λI, and the two commute."""
    v = oracles.randn(0, block.size)
    damped, inverse = block.damped(damping), block.inverse(damping)
    equal(inverse @ (damped @ v), v, atol=1e-9)
    equal(damped @ (inverse @ v), v, atol=1e-9)
    equal(block.solve(damped @ v, damping), v, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_no_factorisation(dtype: torch.dtype) -> None:
    """The error says what to do."""
    with pytest.raises(TypeError, match=rf"float32 or float64, got {dtype}; convert with \.float\(\)"):
        inverse_of(torch.eye(3, dtype=dtype), 0.1)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e3), (torch.float64, 1e10)])
def test_an_ill_conditioned_matrix_is_still_inverted(dtype: torch.dtype, largest: float) -> None:
    """Up to a condition number somewhat below 1/eps an inverse is given, and it is one."""
    matrix = oracles.symmetric(torch.logspace(0, 1, 30, dtype=torch.float64) ** torch.tensor(largest).log10())
    inverse, usable = inverse_of(matrix.to(dtype), 0.0)
    assert usable
    error = (matrix @ inverse.double() - torch.eye(30)).abs().max()
    assert error < 30 * torch.finfo(dtype).eps * largest
