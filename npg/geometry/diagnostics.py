"""Compare curvature matrices: coupling of blocks, distance to another matrix, covariance of estimates.

Every function only needs products with a matrix. Fisher matrices and all numbers derived from them are in
nats and in the parameters' own units. `npg/geometry/spectrum.py` describes the random probes and their
standard errors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from npg.conjugate_gradient import Status, conjugate_gradient
from npg.geometry.spectrum import (
    Estimate,
    as_estimate,
    checked_product,
    jackknife,
    probe_vectors,
    source_or_seeded,
)
from npg.linear_operator import Damped, LinearOperator, SingularMatrixError

SINGULAR = "the matrix is singular: moving the parameters in some direction does not change the policy"


@dataclass(frozen=True, eq=False)
class Coupling:
    """How far B parameter blocks are from being orthogonal; all numbers are dimensionless.

    Attributes:
        names: the names of the blocks.
        matrix: ‖C_ij‖ / √(‖C_ii‖ ‖C_jj‖), (B, B), float64 on the CPU: 1 on the diagonal, 0 if a pair is
            orthogonal or a block has no curvature.
        standard_error: the standard error of `matrix`, (B, B).
        off_diagonal_mass: the fraction of ‖C‖² outside the diagonal blocks; 0 if F is block-diagonal.
    """

    names: tuple[str, ...]
    matrix: Tensor
    standard_error: Tensor
    off_diagonal_mass: Estimate


def block_coupling(
    operator: LinearOperator,
    diagonal: Tensor,
    blocks: Mapping[str, slice],
    *,
    probes: int | None = None,
    generator: Generator | None = None,
) -> Coupling:
    """Measure what a block-diagonal approximation of F would miss, whatever the units of the parameters.

    C = D^-½ F D^-½ with D = diag F is F in units in which every parameter has curvature 1. Norms are
    Frobenius norms: for a vector z of random signs in block j, E‖C_ij z‖² = ‖C_ij‖² (Hutchinson 1990).

    Args:
        operator: F.
        diagonal: D (P,), not negative; rows and columns of F where it is 0 count as 0.
        blocks: {name: slice of the flat vector}, e.g. `FlatParameters.by_module()`.
        probes: number of products per block; None gives exact numbers, with one product per parameter.
        generator: source of the signs.

    Raises:
        ValueError: the diagonal has a wrong shape, or an entry that is negative or not finite; or probes < 1.
        FloatingPointError: a product is not finite.
    """
    if diagonal.shape != (operator.size,) or not bool((diagonal.isfinite() & (diagonal >= 0)).all()):
        raise ValueError(f"expected a diagonal of shape ({operator.size},), finite and ≥ 0; pass diag(F)")
    root = torch.where(diagonal > 0, diagonal, math.inf).rsqrt()
    source = source_or_seeded(operator, generator)
    columns = []
    for column in blocks.values():
        squares = []
        for z in probe_vectors(operator, probes, source, column):
            product = root * checked_product(operator, root * z)
            squares.append(torch.stack([_square(product[row]) for row in blocks.values()]))
        samples = torch.stack(squares)  # (K, B), unbiased for ‖C_ij‖²
        columns.append(samples.sum(0, keepdim=True) if probes is None else samples)
    # ‖C_ij‖² and ‖C_ji‖² are two estimates of the same number.
    stacked = torch.stack(columns, -1).cpu()
    stacked = (stacked + stacked.mT) / 2

    def matrix(squares: Tensor) -> Tensor:
        scale = squares.diag().sqrt()
        return torch.where(squares > 0, squares / torch.outer(scale, scale), 0).sqrt()

    def mass(squares: Tensor) -> Tensor:
        return _ratio(squares.sum() - squares.trace(), squares.sum())

    exact = probes is None
    value, error = jackknife(stacked, matrix, exact)
    return Coupling(tuple(blocks), value, error, as_estimate(jackknife(stacked, mass, exact)))


def relative_gap(
    a: LinearOperator,
    b: LinearOperator,
    *,
    probes: int | None = None,
    generator: Generator | None = None,
) -> Estimate:
    """Return ‖A − B‖ / ‖B‖ in the Frobenius norm, dimensionless.

    For a vector z of random signs E‖Az‖² = ‖A‖² (Hutchinson 1990). The same z is used for both matrices.

    Args:
        a: A, e.g. an empirical Fisher matrix or a Hessian.
        b: B, the reference; if B = 0 and A ≠ 0, the result is infinite.
        probes: number of vectors z, with one product per matrix each; None gives the exact number, with P
            products per matrix.
        generator: source of the signs.

    Raises:
        ValueError: the sizes differ, or probes < 1.
        FloatingPointError: a product is not finite.
    """
    if a.size != b.size:
        raise ValueError(f"expected two matrices of the same size, got {a.shape} and {b.shape}")
    pairs = []
    for z in probe_vectors(b, probes, source_or_seeded(b, generator), slice(0, b.size)):
        product = checked_product(b, z)
        pairs.append(torch.stack([_square(checked_product(a, z) - product), _square(product)]))
    samples = torch.stack(pairs).cpu()
    if probes is None:
        samples = samples.sum(0, keepdim=True)
    return as_estimate(jackknife(samples, lambda s: _ratio(s[0], s[1]).sqrt(), probes is None))


def parameter_covariance(operator: LinearOperator, n: int, *, damping: float = 0.0) -> Tensor:
    """Return (F + λI)⁻¹ / n, (P, P): the covariance of a maximum-likelihood fit to n samples, for large n.

    With λ = 0 no unbiased estimate has a smaller covariance (Cramér 1946, "Mathematical methods of
    statistics", chapters 32 and 33). F is computed as a dense matrix, with P products.

    Args:
        operator: F, the information in one sample.
        n: the number of independent samples.
        damping: λ ≥ 0; it acts like a prior with information n λ about every parameter.

    Raises:
        ValueError: n < 1, or λ is negative or not finite.
        FloatingPointError: F is not finite.
        SingularMatrixError: F + λI is not positive definite up to rounding.
    """
    _check_samples(n)
    dense = Damped(operator, damping).to_dense()
    if not bool(dense.isfinite().all()):
        raise FloatingPointError("the matrix is not finite; look for NaN in parameters and observations")
    values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
    least, rounding = float(values[0]), operator.size * torch.finfo(dense.dtype).eps * float(values[-1])
    if least <= rounding:
        raise SingularMatrixError(f"{SINGULAR} (least eigenvalue {least:.3g}); {_raise(damping)}")
    covariance: Tensor = (vectors / values) @ vectors.T / n
    return covariance


def standard_error(
    operator: LinearOperator,
    direction: Tensor,
    n: int,
    *,
    damping: float = 0.0,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> float:
    """Return √(dᵀ (F + λI)⁻¹ d / n): the standard error of dᵀθ after a fit to n samples.

    It uses conjugate gradient instead of the matrix of `parameter_covariance`, so P may be large.

    Args:
        operator: F, the information in one sample.
        direction: d (P,). For the standard error of a function of the parameters, pass its gradient.
        n: the number of independent samples.
        damping: λ ≥ 0.
        max_iterations: of conjugate gradient.
        tolerance: of conjugate gradient, relative.

    Raises:
        ValueError: n < 1, λ is negative or not finite, or d has a wrong shape.
        FloatingPointError: a product is not finite.
        SingularMatrixError: conjugate gradient did not converge; if F is singular, more iterations do not
            help.
    """
    _check_samples(n)
    solution = conjugate_gradient(
        Damped(operator, damping), direction, max_iterations=max_iterations, tolerance=tolerance
    )
    if solution.status is Status.NON_FINITE:
        raise FloatingPointError(
            "a product with the matrix, or the direction, is not finite; look for NaN in parameters and "
            "observations"
        )
    if solution.status is not Status.CONVERGED:
        raise SingularMatrixError(
            f"conjugate gradient stopped at {solution.status} with relative residual "
            f"{solution.residual:.3g}: {SINGULAR}, or it needs more iterations; {_raise(damping)}"
        )
    return math.sqrt(float(direction.double() @ solution.x.double()) / n)


def _square(vector: Tensor) -> Tensor:
    return vector.double().square().sum()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == 0, 0, a / b)


def _check_samples(n: int) -> None:
    if n < 1:
        raise ValueError(f"a covariance needs n ≥ 1 samples, got {n}")


def _raise(damping: float) -> str:
    return f"raise damping above {damping:g}, or remove parameters that do nothing"
