"""Matrices with an inverse in closed form, and their composition along a diagonal."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from npg.linear_operator import InvertibleOperator, SingularMatrixError, check_damping


class Diagonal(InvertibleOperator):
    """The matrix diag(d).

    Args:
        diagonal: d, (P,).
    """

    def __init__(self, diagonal: Tensor):
        self.diagonal = diagonal
        self.size, self.dtype, self.device = len(diagonal), diagonal.dtype, diagonal.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return d ⊙ v."""
        return self.diagonal * vector

    def damped(self, damping: float) -> "Diagonal":
        """Return diag(d + λ)."""
        check_damping(damping)
        return Diagonal(self.diagonal + damping)

    def inverse(self, damping: float = 0.0) -> "Diagonal":
        """Return diag(1 / (d + λ))."""
        damped = self.damped(damping).diagonal
        usable = (damped >= torch.finfo(self.dtype).tiny) & damped.isfinite()
        if not bool(usable.all()):  # NaN included
            raise SingularMatrixError.at("a diagonal", damping)
        return Diagonal(1 / damped)


class Dense(InvertibleOperator):
    """A symmetric matrix held as it is.

    Args:
        matrix: (P, P).
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with v."""
        return self.matrix @ vector

    def damped(self, damping: float) -> "Dense":
        """Return A + λI."""
        check_damping(damping)
        return Dense(shifted(self.matrix, damping))

    def inverse(self, damping: float = 0.0) -> "Dense":
        """Return (A + λI)⁻¹, by a Cholesky factor."""
        check_damping(damping)
        return Dense(inverse_of(self.matrix, damping))


class BlockDiagonal(InvertibleOperator):
    """Operators along a diagonal, with zeros elsewhere.

    Args:
        blocks: at least one, in the order of the flat vector.
    """

    def __init__(self, blocks: Sequence[InvertibleOperator]):
        self.blocks = tuple(blocks)
        self.size = sum(block.size for block in self.blocks)
        self.dtype, self.device = self.blocks[0].dtype, self.blocks[0].device
        self._sizes = [block.size for block in self.blocks]

    def matvec(self, vector: Tensor) -> Tensor:
        """Return every block times its part of v."""
        parts = zip(self.blocks, torch.split(vector, self._sizes), strict=True)
        return torch.cat([block.matvec(part) for block, part in parts])

    def damped(self, damping: float) -> "BlockDiagonal":
        """Return every block, damped its own way."""
        return BlockDiagonal([block.damped(damping) for block in self.blocks])

    def inverse(self, damping: float = 0.0) -> "BlockDiagonal":
        """Return every block's own inverse."""
        return BlockDiagonal([block.inverse(damping) for block in self.blocks])


def inverse_of(matrix: Tensor, damping: float) -> Tensor:
    """Return (A + λI)⁻¹ of a symmetric positive semi-definite matrix (P, P).

    Raises:
        SingularMatrixError: A + λI is singular up to rounding, or not finite.
        TypeError: the matrix is of half precision, which has no factorisation.
    """
    if matrix.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"an inverse needs float32 or float64, got {matrix.dtype}; convert with .float()")
    damped = shifted(matrix, damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    # Rounding can carry a singular matrix past the factorisation, with a pivot of its own size.
    least = 4 * torch.finfo(matrix.dtype).eps * math.sqrt(len(matrix)) * damped.diagonal().abs().amax()
    if not bool((failed == 0) & (factor.diagonal().square() > least).all()):
        raise SingularMatrixError.at(f"a block of {len(matrix)} rows", damping)
    return torch.cholesky_inverse(factor)


def shifted(matrix: Tensor, amount: float) -> Tensor:
    """Return A + amount · I as a new tensor."""
    new = matrix.clone()
    new.diagonal().add_(amount)
    return new
