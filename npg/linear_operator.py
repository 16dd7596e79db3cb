"""Symmetric linear operators on flat parameter vectors."""

import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator


class LinearOperator(Protocol):
    """A symmetric positive semi-definite matrix, known by its products.

    An implementation gives `size`, `dtype`, `device` and `matvec`; the rest follows.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, (P,) -> (P,)."""
        ...

    def __matmul__(self, vector: Tensor) -> Tensor:
        if vector.shape != (self.size,):
            raise ValueError(f"expected a vector of shape ({self.size},), got {vector.shape}")
        return self.matvec(vector)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.size, self.size

    def to_dense(self) -> Tensor:
        """Return the whole matrix (P, P), at the price of P products."""
        basis = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.stack([self.matvec(column) for column in basis], dim=1)

    def to_scipy(self) -> "ScipyLinearOperator":
        """Return a `scipy.sparse.linalg.LinearOperator` that works on numpy vectors."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

        def matvec(vector: "np.ndarray") -> "np.ndarray":
            tensor = torch.as_tensor(vector.reshape(-1), dtype=self.dtype, device=self.device)
            return np.asarray(self.matvec(tensor).cpu())

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyLinearOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)


class SingularMatrixError(ArithmeticError):
    """A matrix has no inverse, up to rounding."""

    @classmethod
    def at(cls, what: str, damping: float) -> "SingularMatrixError":
        """Return the error for a matrix by name."""
        return cls(
            f"{what} of the matrix is singular or not finite at damping {damping:g}; raise the damping"
        )


@runtime_checkable
class InvertibleOperator(LinearOperator, Protocol):
    """A linear operator A with an inverse in closed form.

    An implementation gives `damped` and `inverse`. How it is damped is its own: A + λI, or near it.
    """

    def damped(self, damping: float) -> "InvertibleOperator":
        """Return A + λI, or what of its kind stands for it.

        Args:
            damping: λ ≥ 0, in the units of A.

        Raises:
            ValueError: the damping is negative or not finite.
        """
        ...

    def inverse(self, damping: float = 0.0) -> "InvertibleOperator":
        """Return the inverse of `damped(λ)`, factorised once: a preconditioner of conjugate gradient.

        Args:
            damping: λ ≥ 0, in the units of A.

        Raises:
            ValueError: the damping is negative or not finite.
            SingularMatrixError: there is none, up to rounding.
        """
        ...

    def solve(self, b: Tensor, damping: float = 0.0) -> Tensor:
        """Return `inverse(λ) @ b` for b (P,); errors are those of `inverse`."""
        return self.inverse(damping) @ b


class Damped(LinearOperator):
    """The operator A + λI (Tikhonov damping), positive definite where A is semi-definite and λ > 0.

    Args:
        operator: A.
        damping: λ ≥ 0, in the units of A.

    Raises:
        ValueError: the damping is negative or not finite.
    """

    def __init__(self, operator: LinearOperator, damping: float):
        check_damping(damping)
        self.operator = operator
        self.damping = damping
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v + λ v."""
        return self.operator.matvec(vector) + self.damping * vector


def check_damping(damping: float) -> None:
    """Check that a matrix may be damped by this.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be a finite number ≥ 0, got {damping}")
