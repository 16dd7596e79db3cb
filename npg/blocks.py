"""Matrices with an inverse in closed form, and their composition along a diagonal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from npg.linear_operator import InvertibleOperator, LinearOperator, SingularMatrixError, check_damping


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

    def inverse(self, damping: float = 0.0) -> LinearOperator:
        """Return diag(1 / (d + λ))."""
        check_damping(damping)
        damped = self.diagonal + damping
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

    def inverse(self, damping: float = 0.0) -> LinearOperator:
        """Return the inverse, by a Cholesky factor."""
        check_damping(damping)
        return Dense(inverse_of(self.matrix, damping))


class BlockDiagonal(InvertibleOperator):
    """Operators along a diagonal, with zeros elsewhere.

    Args:
        blocks: at least one, in the order of the flat vector.
    """

    def __init__(self, blocks: Sequence[LinearOperator]):
        self.blocks = tuple(blocks)
        self.size = sum(block.size for block in self.blocks)
        self.dtype, self.device = self.blocks[0].dtype, self.blocks[0].device
        self._sizes = [block.size for block in self.blocks]

    def matvec(self, vector: Tensor) -> Tensor:
        """Return every block times its part of v."""
        parts = zip(self.blocks, torch.split(vector, self._sizes), strict=True)
        return torch.cat([block.matvec(part) for block, part in parts])

    def inverse(self, damping: float = 0.0) -> LinearOperator:
        """Return every block's own inverse.

        Raises:
            TypeError: a block has none.
        """
        inverses = []
        for block in self.blocks:
            if not isinstance(block, InvertibleOperator):
                raise TypeError(f"{type(block).__name__} has no inverse in closed form")
            inverses.append(block.inverse(damping))
        return BlockDiagonal(inverses)


def inverse_of(matrix: Tensor, damping: float) -> Tensor:
    """Return (A + λI)⁻¹ of a symmetric positive semi-definite matrix (P, P).

    Raises:
        SingularMatrixError: A + λI is singular up to rounding, or not finite.
        TypeError: the matrix is of half precision, which has no factorisation.
    """
    if matrix.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"an inverse needs float32 or float64, got {matrix.dtype}; convert with .float()")
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    # Rounding can carry a singular matrix past the factorisation, with a pivot of its own size.
    least = 4 * torch.finfo(matrix.dtype).eps * len(matrix) * damped.diagonal().abs().amax()
    if bool(failed) or not bool((factor.diagonal().square() > least).all()):
        raise SingularMatrixError.at(f"a block of {len(matrix)} rows", damping)
    return torch.cholesky_inverse(factor)
