"""Updates of low rank against dense matrices."""

import oracles
import pytest
import torch
from torch import Tensor

from npg import InvertibleOperator, SingularMatrixError
from npg.fisher.blocks import Dense, Diagonal
from npg.fisher.low_rank import LowRankUpdate

BASES = {
    "diagonal": Diagonal(torch.arange(1, 8, dtype=torch.float64)),
    "dense": Dense(oracles.symmetric(torch.arange(1, 8, dtype=torch.float64))),
}


def equal(a: Tensor, b: Tensor) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("n", [1, 3, 7, 20])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_the_inverse_is_the_dense_one(base: InvertibleOperator, n: int, damping: float) -> None:
    """Fewer, as many and more rows than the matrix has; the inverse's inverse is where it began."""
    rows = oracles.randn(0, n, 7)
    update = LowRankUpdate(base, rows)
    dense = base.to_dense() + rows.T @ rows
    equal(update.to_dense(), dense)
    damped = dense + damping * torch.eye(7).double()
    equal(update.damped(damping).to_dense(), damped)
    equal(update.inverse(damping).to_dense(), torch.linalg.inv(damped))
    equal(update.inverse(damping).inverse().to_dense(), damped)
    b = oracles.randn(1, 7)
    equal(update.solve(b, damping), torch.linalg.solve(damped, b))


def test_a_row_taken_away() -> None:
    """With the sign −1 the rows are subtracted, as far as the matrix stays positive definite."""
    base, row = BASES["diagonal"], torch.full((1, 7), 0.3).double()
    less = LowRankUpdate(base, row, sign=-1)
    equal(less.inverse().to_dense(), torch.linalg.inv(base.to_dense() - row.T @ row))
    with pytest.raises(SingularMatrixError, match="an update of 1 rows"):
        LowRankUpdate(base, 10 * row, sign=-1).inverse()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_rounding_grows_with_the_ratio_of_update_to_base(dtype: torch.dtype, size: float) -> None:
    """The relative error is within a few times ε‖R B⁻¹Rᵀ‖, as the docstring says."""
    rows = oracles.randn(0, 20, 50, dtype=dtype)
    rows *= (size / torch.linalg.matrix_norm(rows @ rows.T, 2)).sqrt()
    update = LowRankUpdate(Diagonal(torch.ones(50, dtype=dtype)), rows)
    b = oracles.randn(1, 50, dtype=dtype)
    error = torch.linalg.vector_norm(update.inverse() @ (update @ b) - b) / torch.linalg.vector_norm(b)
    assert error < 3 * torch.finfo(dtype).eps * max(size, 1)


@pytest.mark.parametrize("scale", [1e6, torch.inf, torch.nan])
def test_what_rounding_drowns_is_rejected(scale: float) -> None:
    """An update 10¹² times its base in float32 has no inverse to speak of, nor has a non-finite one."""
    update = LowRankUpdate(Diagonal(torch.ones(3)), scale * torch.ones(2, 3))
    with pytest.raises(SingularMatrixError, match=r"an update of 2 rows .* at damping 0; raise the damping"):
        update.inverse()


@pytest.mark.parametrize("damping", [-1.0, torch.nan, torch.inf])
def test_a_damping_out_of_range_is_rejected(damping: float) -> None:
    """λ is finite and not negative."""
    update = LowRankUpdate(BASES["dense"], oracles.randn(0, 2, 7))
    for method in (update.inverse, update.damped):
        with pytest.raises(ValueError, match="damping must be a finite number"):
            method(damping)
