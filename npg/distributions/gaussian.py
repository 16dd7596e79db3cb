"""Gaussian actions with independent dimensions."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from npg.distributions.distribution import Coordinates, Distribution, check_pair, check_shape


@dataclass(frozen=True, eq=False)
class DiagGaussian(Distribution):
    """A Gaussian with independent action dimensions.

    Args:
        mean: (N, A).
        log_std: logarithm of the standard deviation, (N, A), or (A,) if it does not depend on the state.

    Raises:
        ValueError: `log_std` does not broadcast to the shape of `mean`.
    """

    mean: Tensor
    log_std: Tensor

    def __post_init__(self) -> None:
        try:
            log_std = self.log_std.expand_as(self.mean)
        except RuntimeError:
            raise ValueError(
                f"DiagGaussian expects a log_std that broadcasts to the mean's shape "
                f"{tuple(self.mean.shape)}, got {tuple(self.log_std.shape)}"
            ) from None
        object.__setattr__(self, "log_std", log_std)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A), shape (N,)."""
        check_shape(actions, self.mean.shape)
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shape (N,)."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,)."""
        check_pair(self, new)
        # With r = σ_old/σ_new: ½ (r² − 1 − 2 log r + Δμ²/σ_new²); expm1 keeps small differences exact.
        log_ratio = self.log_std - new.log_std
        shift = (self.mean - new.mean) * torch.exp(-new.log_std)
        return (0.5 * (torch.expm1(2 * log_ratio) + shift.square()) - log_ratio).sum(-1)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return (dμ/σ², 2 d log σ): the metric has no cross terms between mean and scale."""
        mean_tangent, log_std_tangent = tangent
        return mean_tangent * torch.exp(-2 * self.log_std), 2 * log_std_tangent

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return (w_μ/σ, √2 w_σ)."""
        mean_noise, log_std_noise = white
        return mean_noise * torch.exp(-self.log_std), math.sqrt(2) * log_std_noise

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A)."""
        noise = torch.randn(
            self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return (self.mean + torch.exp(self.log_std) * noise).detach()
