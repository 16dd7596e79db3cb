"""The spectrum of a curvature matrix, from its products alone.

Random numbers come only from a `torch.Generator`; without one, every call starts the same sequence, so that
two matrices get the same probes. Estimates from random probes have a standard error, by the jackknife over
probes (Efron & Stein 1981): infinite for a single probe, 0 if no random probe was needed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from npg.linear_operator import LinearOperator, check_damping
from npg.scaling import norm, power_of_two

# A Lanczos residual of at most this many roundings of the largest product is only rounding error.
ROUNDINGS = 8


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, both in the unit of the number."""

    value: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """The matrix T = QᵀAQ of Lanczos's method, float64 on the CPU.

    Attributes:
        diagonal: α, (m,).
        off_diagonal: β, (m - 1,).
        residual: ‖AQ − QT‖; every eigenvalue of T is at most this far from one of A. It is only rounding
            error once the Krylov space is exhausted.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    residual: float

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Return Gauss nodes and weights (m,): qᵀf(A)q ≈ Σ weight · f(node) for the unit start q.

        The nodes are T's eigenvalues, the Ritz values, ascending; the weights add up to 1 (Golub & Welsch
        1969, "Calculation of Gauss quadrature rules").
        """
        off = self.off_diagonal
        values, vectors = torch.linalg.eigh(self.diagonal.diag() + off.diag(1) + off.diag(-1))
        return values, vectors[0].square()


def lanczos(operator: LinearOperator, start: Tensor, steps: int) -> Tridiagonal:
    """Reduce a symmetric matrix A to tridiagonal form on the Krylov space of a vector.

    Lanczos 1950, with full re-orthogonalisation, twice per step: without it, rounding makes eigenvalues that
    were already found reappear as copies (Parlett 1998, "The symmetric eigenvalue problem", chapter 13). It
    stores `steps` vectors of length P in the operator's precision, but at least float32.

    Args:
        operator: A.
        start: (P,), not 0.
        steps: maximum number of products; fewer are made if the Krylov space is exhausted.

    Raises:
        ValueError: `start` is zero, not finite or of a wrong shape, or steps < 1.
        FloatingPointError: a product is not finite.
    """
    length = float(norm(start))
    if start.shape != (operator.size,) or not 0 < length < math.inf or steps < 1:
        raise ValueError(
            f"Lanczos needs a finite start other than 0 of shape ({operator.size},) and steps ≥ 1, "
            f"got shape {tuple(start.shape)} and length {length}, steps {steps}"
        )
    dtype = torch.promote_types(operator.dtype, torch.float32)
    steps = min(steps, operator.size)
    basis = torch.empty(steps, operator.size, dtype=dtype, device=operator.device)
    basis[0] = (start / power_of_two(start)).to(dtype)
    basis[0] /= torch.linalg.vector_norm(basis[0])
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    residual = largest = 0.0
    scale: Tensor | None = None  # of the first product: norms of the unscaled products might overflow
    for step in range(steps):
        product = checked_product(operator, basis[step]).to(dtype)
        scale = power_of_two(product) if scale is None else scale
        product = product / scale
        largest = max(largest, float(torch.linalg.vector_norm(product)))
        diagonal.append(float(basis[step] @ product))
        known = basis[: step + 1]
        for _ in range(2):
            product = product - (known @ product) @ known
        residual = float(torch.linalg.vector_norm(product))
        if step + 1 == steps or residual <= ROUNDINGS * torch.finfo(operator.dtype).eps * largest:
            break
        off_diagonal.append(residual)
        basis[step + 1] = product / residual
    unit = 1.0 if scale is None else float(scale)
    alpha, beta = (unit * torch.tensor(each, dtype=torch.float64) for each in (diagonal, off_diagonal))
    return Tridiagonal(alpha, beta, unit * residual)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a symmetric matrix (P, P), estimated with K probes.

    Attributes:
        size: P.
        values: Ritz values (K, M), float64 on the CPU, in the matrix's units.
        weights: (K, M); every row adds up to 1, so that P · weight is a number of eigenvalues.
    """

    size: int
    values: Tensor
    weights: Tensor

    @property
    def largest(self) -> float:
        """The largest Ritz value: never above the largest eigenvalue, and usually the first to converge."""
        return float(self.values.max())

    @property
    def smallest(self) -> float:
        """The smallest Ritz value: never below the smallest eigenvalue."""
        return float(self.values.min())

    @property
    def trace(self) -> Estimate:
        """The sum of all eigenvalues (Hutchinson 1990)."""
        return self.sum(lambda eigenvalues: eigenvalues)

    def condition(self, damping: float = 0.0) -> float:
        """Return (λ_max + λ) / (λ_min + λ) of the Ritz values, or inf unless λ_min + λ > 0.

        The condition number of A + λI is at least this.

        Raises:
            ValueError: λ is negative or not finite.
        """
        check_damping(damping)
        least = self.smallest + damping
        return (self.largest + damping) / least if least > 0 else math.inf

    def effective_dimension(self, damping: float) -> Estimate:
        """Return tr F (F + λI)⁻¹ for λ > 0: how many directions have more curvature than damping.

        MacKay 1992, "Bayesian interpolation", eq. 4.9. With too few Lanczos steps the result is too large,
        since Gauss quadrature never exceeds tr (F + λI)⁻¹ (Golub & Meurant 2010, theorem 6.4). Negative
        Ritz values, the rounding of a semi-definite matrix, count as 0.

        Raises:
            ValueError: λ is not a positive number.
        """
        if not 0 < damping < math.inf:
            raise ValueError(f"the effective dimension needs a damping > 0, got {damping}")
        return self.sum(lambda x: x.clamp(min=0) / (x.clamp(min=0) + damping))

    def sum(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """Return tr f(A), the sum of an elementwise function over all eigenvalues.

        The standard error is that of the random probes; the error of stopping after M steps comes on top.
        """
        samples = self.size * (self.weights * function(self.values)).sum(1)
        return as_estimate(jackknife(samples, lambda mean: mean))


def spectrum(
    operator: LinearOperator, *, steps: int = 30, probes: int = 8, generator: Generator | None = None
) -> Spectrum:
    """Estimate the spectrum by stochastic Lanczos quadrature, with `steps` · `probes` products.

    Ubaru, Chen & Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", algorithm 1.
    With as many steps as A has distinct eigenvalues, every Ritz value is one of them, and the error of a sum
    comes only from the probes.

    Args:
        operator: A.
        steps: Lanczos steps per probe.
        probes: number of vectors of random signs.
        generator: source of the signs.

    Raises:
        ValueError: steps < 1 or probes < 1.
        FloatingPointError: a product is not finite.
    """
    signs = probe_vectors(operator, probes, source_or_seeded(operator, generator), slice(0, operator.size))
    rules = [lanczos(operator, z, steps).quadrature() for z in signs]
    longest = max(len(values) for values, _ in rules)
    # A rule that stopped early is padded with one of its own values, at weight 0.
    values = [torch.cat([v, v[:1].expand(longest - len(v))]) for v, _ in rules]
    weights = [torch.cat([w, w.new_zeros(longest - len(w))]) for _, w in rules]
    return Spectrum(operator.size, torch.stack(values), torch.stack(weights))


def checked_product(operator: LinearOperator, vector: Tensor) -> Tensor:
    """Return the product with a finite vector (P,).

    Raises:
        FloatingPointError: the product is not finite.
    """
    product = operator @ vector.to(operator.dtype)
    if not bool(product.isfinite().all()):
        raise FloatingPointError(
            f"the product of {type(operator).__name__} with a finite vector is not finite; "
            "look for NaN in parameters and observations, or a scale that overflows"
        )
    return product


def source_or_seeded(operator: LinearOperator, generator: Generator | None) -> Generator:
    """Return the given generator, or else a new one with a fixed seed."""
    return Generator(operator.device).manual_seed(0) if generator is None else generator


def _signs(operator: LinearOperator, source: Generator) -> Tensor:
    bits = torch.randint(2, (operator.size,), generator=source, device=source.device)
    return (2 * bits - 1).to(operator.device, operator.dtype)


def probe_vectors(
    operator: LinearOperator, probes: int | None, source: Generator, block: slice
) -> Iterator[Tensor]:
    """Yield vectors that are 0 outside a block: `probes` of random signs, or its unit vectors if None."""
    if probes is not None and probes < 1:
        raise ValueError(f"expected probes ≥ 1, or None for the exact answer, got {probes}")
    places = range(block.start, block.stop) if probes is None else [block] * probes
    for place in places:
        vector = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
        vector[place] = 1 if probes is None else _signs(operator, source)[block]
        yield vector


def jackknife(
    samples: Tensor, statistic: Callable[[Tensor], Tensor], exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a function of the mean of K samples (K, ...), and its standard error."""
    value, count = statistic(samples.mean(0)), len(samples)
    if exact or count == 1:
        return value, torch.full_like(value, 0 if exact else math.inf)
    others = [torch.cat([samples[:k], samples[k + 1 :]]).mean(0) for k in range(count)]
    replicas = torch.stack([statistic(mean) for mean in others])
    return value, ((count - 1) * replicas.var(0, correction=0)).sqrt()


def as_estimate(result: tuple[Tensor, Tensor]) -> Estimate:
    """Return a scalar result of `jackknife` as plain numbers."""
    return Estimate(float(result[0]), float(result[1]))
