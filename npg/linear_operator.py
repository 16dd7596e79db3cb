"""Symmetric linear operators on flat parameter vectors."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from npg import host

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator


class LinearOperator(ABC):
    """A symmetric positive semi-definite matrix, defined by its products with vectors.

    A subclass implements `matvec`; operators are composed with `Damped`, `Scaled` and `Sum`.

    Args:
        size: P, the number of rows and of columns.
        dtype: the vectors' dtype.
        device: the vectors' device.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device):
        self.size = size
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, (P,) -> (P,)."""

    def __matmul__(self, vector: Tensor) -> Tensor:
        if vector.shape != (self.size,):
            raise ValueError(f"expected a vector of shape ({self.size},), got {vector.shape}")
        return self.matvec(vector)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.size, self.size

    def to_dense(self) -> Tensor:
        """Return the whole matrix (P, P), with P products."""
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
        """Return the error for the part of a matrix that `what` describes."""
        return cls(
            f"{what} of the matrix is singular or not finite at damping {damping:g}; raise the damping"
        )


class InvertibleOperator(LinearOperator):
    """A linear operator A with an inverse in closed form.

    A subclass implements `matvec`, `damped` and `unchecked_inverse`.
    """

    @abstractmethod
    def damped(self, damping: float) -> "InvertibleOperator":
        """Return A + λI, or an approximation of the same kind.

        Args:
            damping: λ ≥ 0, in the units of A.

        Raises:
            ValueError: the damping is negative or not finite.
        """

    @abstractmethod
    def unchecked_inverse(self, damping: float = 0.0) -> tuple["InvertibleOperator", dict[str, Tensor]]:
        """Return the inverse of `damped(λ)` without a host read, and whether it is usable.

        Returns:
            The inverse, and {description of a part of the matrix: whether it could be inverted, a 0-d bool}.
            A part that is singular up to rounding could not.
        """

    def inverse(self, damping: float = 0.0) -> "InvertibleOperator":
        """Return the inverse of `damped(λ)`, factorised once, e.g. to precondition conjugate gradient.

        Args:
            damping: λ ≥ 0, in the units of A.

        Raises:
            ValueError: the damping is negative or not finite.
            SingularMatrixError: the matrix is singular up to rounding.
        """
        inverse, usable = self.unchecked_inverse(damping)
        numbers = host.read(**usable)
        for part in usable:
            if not numbers[part]:
                raise SingularMatrixError.at(part, damping)
        return inverse

    def solve(self, b: Tensor, damping: float = 0.0) -> Tensor:
        """Return `inverse(λ) @ b` for b (P,); errors are those of `inverse`."""
        return self.inverse(damping) @ b


class Damped(LinearOperator):
    """The operator A + λI (Tikhonov damping), positive definite if A is semi-definite and λ > 0.

    Args:
        operator: A.
        damping: λ ≥ 0, in the units of A; a 0-d tensor is not checked.

    Raises:
        ValueError: the damping is negative or not finite.
    """

    def __init__(self, operator: LinearOperator, damping: float | Tensor):
        if not isinstance(damping, Tensor):
            check_damping(damping)
        super().__init__(operator.size, operator.dtype, operator.device)
        self.operator = operator
        self.damping = damping

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v + λ v."""
        return self.operator.matvec(vector) + self.damping * vector


class Scaled(LinearOperator):
    """The operator c A.

    Args:
        factor: c ≥ 0.
        operator: A.

    Raises:
        ValueError: the factor is negative or not finite.
    """

    def __init__(self, factor: float, operator: LinearOperator):
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(f"factor must be a finite number ≥ 0, got {factor}")
        super().__init__(operator.size, operator.dtype, operator.device)
        self.factor = factor
        self.operator = operator

    def matvec(self, vector: Tensor) -> Tensor:
        """Return c A v."""
        return self.factor * self.operator.matvec(vector)


class InvertibleScaled(Scaled, InvertibleOperator):
    """The operator c A for an invertible A; its inverse is A⁻¹ / c.

    Args:
        factor: c > 0.
        operator: A.

    Raises:
        ValueError: the factor is not a positive finite number.
    """

    operator: InvertibleOperator

    def __init__(self, factor: float, operator: InvertibleOperator):
        if factor == 0:
            raise ValueError("factor must be positive: 0 A has no inverse; got 0")
        super().__init__(factor, operator)

    def damped(self, damping: float) -> "InvertibleScaled":
        """Return c · A.damped(λ / c), which is c A + λI if A is damped by adding a multiple of I."""
        return InvertibleScaled(self.factor, self.operator.damped(damping / self.factor))

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["InvertibleScaled", dict[str, Tensor]]:
        """Return the inverse of `damped(λ)`."""
        inverse, usable = self.operator.unchecked_inverse(damping / self.factor)
        return InvertibleScaled(1 / self.factor, inverse), usable


class RelativelyDamped(InvertibleScaled):
    """The operator c A, damped in units of c: c (A + λI)."""

    def damped(self, damping: float) -> "RelativelyDamped":
        """Return c · A.damped(λ)."""
        return RelativelyDamped(self.factor, self.operator.damped(damping))

    def unchecked_inverse(self, damping: float = 0.0) -> tuple[InvertibleScaled, dict[str, Tensor]]:
        """Return the inverse of `damped(λ)`."""
        return super().unchecked_inverse(damping * self.factor)


class Sum(LinearOperator):
    """The operator A + B + ….

    Args:
        operators: at least one, all of the same size.

    Raises:
        ValueError: there is no operator, or the sizes differ.
    """

    def __init__(self, *operators: LinearOperator):
        if len({operator.size for operator in operators}) != 1:
            raise ValueError(f"expected operators of the same size, got {[o.size for o in operators]}")
        super().__init__(operators[0].size, operators[0].dtype, operators[0].device)
        self.operators = operators

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v + B v + …."""
        products = [operator.matvec(vector) for operator in self.operators]
        return torch.stack(products).sum(0)


def check_damping(damping: float) -> None:
    """Check the range of a damping.

    Raises:
        ValueError: the damping is negative or not finite.
    """
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be a finite number ≥ 0, got {damping}")
