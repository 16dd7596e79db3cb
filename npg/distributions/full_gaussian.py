"""Gaussian actions with correlated dimensions."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Generator, Tensor

from npg.distributions.distribution import Coordinates, Distribution, check_pair, check_shape


@dataclass(frozen=True, eq=False)
class FullGaussian(Distribution):
    """A Gaussian with covariance L Lᵀ, where L (A, A) is lower triangular with a positive diagonal.

    Args:
        mean: (N, A).
        factor: the logarithms of L's diagonal, then the entries below it row by row, (N, A (A + 1) / 2), or
            (A (A + 1) / 2,) if they do not depend on the state.

    Raises:
        ValueError: `factor` does not have A (A + 1) / 2 entries per state.
    """

    mean: Tensor
    factor: Tensor

    def __post_init__(self) -> None:
        size = self.mean.shape[-1]
        expected = (*self.mean.shape[:-1], size * (size + 1) // 2)
        try:
            factor = self.factor.expand(expected)
        except RuntimeError:
            raise ValueError(
                f"FullGaussian expects a factor that broadcasts to {expected} for a mean of shape "
                f"{tuple(self.mean.shape)}, got {tuple(self.factor.shape)}"
            ) from None
        object.__setattr__(self, "factor", factor)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A), shape (N,)."""
        check_shape(actions, self.mean.shape)
        z = solve(self._matrix(), actions - self.mean)
        return (-0.5 * z.square() - self._log_diagonal() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shape (N,)."""
        return (self._log_diagonal() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,)."""
        check_pair(self, new)
        # ½ (‖M‖² − A − 2 log det M + |L_new⁻¹ Δμ|²) with M = L_new⁻¹ L_old. M's diagonal is exp(r), so that
        # expm1 keeps small differences exact; what is below it comes from L_old − L_new for the same reason.
        log_ratio = self._log_diagonal() - new._log_diagonal()
        matrix = new._matrix()
        diagonal = torch.diag_embed(new._log_diagonal().exp() * torch.expm1(log_ratio))
        difference = diagonal + self._below(self.factor) - new._below(new.factor)
        below = torch.linalg.solve_triangular(matrix, difference, upper=False).tril(-1)
        shift = solve(matrix, self.mean - new.mean)
        scale = (0.5 * torch.expm1(2 * log_ratio) - log_ratio).sum(-1)
        divergence: Tensor = scale + 0.5 * below.square().sum((-2, -1)) + 0.5 * shift.square().sum(-1)
        return divergence

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return (Σ⁻¹ dμ, Jᵀ D J d), where J d = L⁻¹ dL, and D is 2 on the diagonal and 1 below it."""
        mean_tangent, factor_tangent = tangent
        matrix = self._matrix()
        whitened = torch.linalg.solve_triangular(matrix, self._change(factor_tangent), upper=False)
        doubled = whitened + torch.diag_embed(whitened.diagonal(dim1=-2, dim2=-1))
        return solve(matrix, solve(matrix, mean_tangent), transpose=True), self._pulled_back(doubled)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return (L⁻ᵀ w_μ, Jᵀ √D w_L)."""
        mean_noise, factor_noise = white
        size = self.mean.shape[-1]
        noise = self._below(factor_noise) + torch.diag_embed(math.sqrt(2) * factor_noise[..., :size])
        return solve(self._matrix(), mean_noise, transpose=True), self._pulled_back(noise)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A)."""
        noise = torch.randn(
            self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return (self.mean + (self._matrix() @ noise.unsqueeze(-1)).squeeze(-1)).detach()

    def _log_diagonal(self) -> Tensor:
        return self.factor[..., : self.mean.shape[-1]]

    def _below(self, factor: Tensor) -> Tensor:
        """Return the matrices (N, A, A) of the entries below the diagonal."""
        size = self.mean.shape[-1]
        padded = torch.cat([factor, factor.new_zeros(*factor.shape[:-1], 1)], -1)
        return padded[..., places(size, factor.device)]

    def _matrix(self) -> Tensor:
        """Return L, (N, A, A)."""
        return self._below(self.factor) + torch.diag_embed(self._log_diagonal().exp())

    def _change(self, tangent: Tensor) -> Tensor:
        """Return dL (N, A, A) of a change of `factor`."""
        size = self.mean.shape[-1]
        return self._below(tangent) + torch.diag_embed(self._log_diagonal().exp() * tangent[..., :size])

    def _pulled_back(self, matrix: Tensor) -> Tensor:
        """Return Jᵀ S (N, A (A + 1) / 2) of lower triangular S (N, A, A): the adjoint of L⁻¹ dL."""
        size = self.mean.shape[-1]
        pulled = torch.linalg.solve_triangular(self._matrix().mT, matrix, upper=True)
        diagonal = pulled.diagonal(dim1=-2, dim2=-1) * self._log_diagonal().exp()
        rows, columns = torch.tril_indices(size, size, -1, device=matrix.device)
        return torch.cat([diagonal, pulled[..., rows, columns]], -1)


@cache
def places(size: int, device: torch.device) -> Tensor:
    """Return where entry (i, j) of the lower triangle lies in `factor`, (A, A); past its end for others."""
    found = torch.full((size, size), size * (size + 1) // 2)
    rows, columns = torch.tril_indices(size, size, -1)
    found[rows, columns] = size + torch.arange(len(rows))
    return found.to(device)


def solve(matrix: Tensor, vector: Tensor, *, transpose: bool = False) -> Tensor:
    """Return L⁻¹ v, or L⁻ᵀ v, for lower triangular L (N, A, A) and v (N, A)."""
    matrix = matrix.mT if transpose else matrix
    solution: Tensor = torch.linalg.solve_triangular(matrix, vector.unsqueeze(-1), upper=transpose)
    return solution.squeeze(-1)
