"""Matrices with an inverse in closed form, and their composition along a diagonal."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from npg.linear_operator import InvertibleOperator, check_damping


class Diagonal(InvertibleOperator):
    """The matrix diag(d).

    Args:
        diagonal: d, (P,).
    """

    def __init__(self, diagonal: Tensor):
        super().__init__(len(diagonal), diagonal.dtype, diagonal.device)
        self.diagonal = diagonal

    def matvec(self, vector: Tensor) -> Tensor:
        """Return d ⊙ v."""
        return self.diagonal * vector

    def damped(self, damping: float) -> "Diagonal":
        """Return diag(d + λ)."""
        check_damping(damping)
        return Diagonal(self.diagonal + damping)

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["Diagonal", dict[str, Tensor]]:
        """Return diag(1 / (d + λ))."""
        damped = self.damped(damping).diagonal
        usable = (damped >= torch.finfo(self.dtype).tiny) & damped.isfinite()
        return Diagonal(1 / damped), {"a diagonal": usable.all()}


class Dense(InvertibleOperator):
    """A symmetric matrix, stored in full.

    Args:
        matrix: (P, P).
    """

    def __init__(self, matrix: Tensor):
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with v."""
        return self.matrix @ vector

    def damped(self, damping: float) -> "Dense":
        """Return A + λI."""
        check_damping(damping)
        return Dense(shifted(self.matrix, damping))

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["Dense", dict[str, Tensor]]:
        """Return (A + λI)⁻¹, by a Cholesky factor."""
        check_damping(damping)
        inverse, usable = inverse_of(self.matrix, damping)
        return Dense(inverse), {f"a block of {self.size} rows": usable}


class BlockDiagonal(InvertibleOperator):
    """Operators along a diagonal, with zeros elsewhere.

    Args:
        blocks: at least one, in the order of the flat vector.
    """

    def __init__(self, blocks: Sequence[InvertibleOperator]):
        super().__init__(sum(block.size for block in blocks), blocks[0].dtype, blocks[0].device)
        self.operators = tuple(blocks)
        self._sizes = [block.size for block in blocks]

    def matvec(self, vector: Tensor) -> Tensor:
        """Return every block times its part of v."""
        parts = zip(self.operators, torch.split(vector, self._sizes), strict=True)
        return torch.cat([block.matvec(part) for block, part in parts])

    def damped(self, damping: float) -> "BlockDiagonal":
        """Return the block diagonal of every block's `damped(λ)`."""
        return BlockDiagonal([block.damped(damping) for block in self.operators])

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["BlockDiagonal", dict[str, Tensor]]:
        """Return the block diagonal of every block's inverse."""
        inverses, all_usable = [], dict[str, Tensor]()
        for block in self.operators:
            inverse, usable = block.unchecked_inverse(damping)
            inverses.append(inverse)
            all_usable |= {name: ok & all_usable.get(name, ok) for name, ok in usable.items()}
        return BlockDiagonal(inverses), all_usable


def inverse_of(matrix: Tensor, damping: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return (A + λI)⁻¹ of a symmetric positive semi-definite matrix (P, P), and whether it is usable (0-d).

    It is unusable if A + λI is singular up to rounding, or not finite.

    Raises:
        TypeError: the matrix is of half precision, which torch cannot factorise.
    """
    if matrix.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"an inverse needs float32 or float64, got {matrix.dtype}; convert with .float()")
    damped = shifted(matrix, damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    # Because of rounding, a singular matrix can pass the factorisation with a tiny pivot instead of zero.
    least = 4 * torch.finfo(matrix.dtype).eps * math.sqrt(len(matrix)) * damped.diagonal().abs().amax()
    usable = (failed == 0) & (factor.diagonal().square() > least).all()
    # A zero pivot would make the inversion raise, so the identity's factor is used instead.
    factor = torch.where(usable, factor, torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))
    return torch.cholesky_inverse(factor), usable


def shifted(matrix: Tensor, amount: float | Tensor) -> Tensor:
    """Return A + amount · I as a new tensor."""
    new = matrix.clone()
    new.diagonal().add_(amount)
    return new
