"""Actions in a box, with independent dimensions."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from npg import host
from npg.distributions.distribution import Coordinates, Distribution, check_pair, check_shape


@dataclass(frozen=True, eq=False)
class Beta(Distribution):
    """A Beta distribution with independent action dimensions, scaled from (0, 1) to (low, high).

    The density is x^(α−1) (1−x)^(β−1) / B(α, β), with x = (a − low) / (high − low), divided by high − low. No
    probability lies outside the bounds, so no action has to be clipped (Chou et al. 2017, "Improving
    stochastic policy gradients in continuous control with deep reinforcement learning using the Beta
    distribution"). α, β > 1 makes it unimodal.

    Logarithms of B(α, β) grow like α + β and largely cancel in log-probability, entropy and KL, so these are
    computed in float64, and returned in the dtype of α.

    Args:
        alpha: α > 0, (N, A).
        beta: β > 0, (N, A).
        low: lower bounds, a number or (A,).
        high: upper bounds, a number or (A,).

    Raises:
        ValueError: `alpha` and `beta` have different shapes.
    """

    alpha: Tensor
    beta: Tensor
    low: Tensor | float = 0.0
    high: Tensor | float = 1.0

    def __post_init__(self) -> None:
        if self.alpha.shape != self.beta.shape:
            raise ValueError(
                f"Beta expects alpha and beta of the same shape, got {tuple(self.alpha.shape)} and "
                f"{tuple(self.beta.shape)}"
            )

    @property
    def coordinates(self) -> Coordinates:
        """α and β, each (N, A)."""
        return self.alpha, self.beta

    @property
    def mean(self) -> Tensor:
        """The mean action, (N, A)."""
        return self._scaled(self.alpha / (self.alpha + self.beta))

    def snapshot(self) -> Self:
        """Return a detached copy, which later changes of the parameters do not affect."""
        alpha, beta = (z.detach().clone() for z in self.coordinates)
        return type(self)(alpha, beta, self.low, self.high)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A), shape (N,).

        Actions at or outside the bounds have the log-probability of the nearest action inside, at a distance
        of one rounding of the dtype, as `sample` draws them.
        """
        check_shape(actions, self.alpha.shape)
        a, b = self._wide()
        x = self._inside((actions - self.low) / (self.high - self.low)).to(a.dtype)
        width = torch.as_tensor(self.high - self.low, dtype=a.dtype, device=a.device).log()
        terms = (a - 1) * x.log() + (b - 1) * torch.log1p(-x) - log_beta(a, b) - width
        return terms.sum(-1).to(self.alpha.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shape (N,)."""
        a, b = self._wide()
        width = torch.as_tensor(self.high - self.low, dtype=a.dtype, device=a.device).log()
        terms = log_beta(a, b) + width + (a + b - 2) * torch.digamma(a + b)
        terms = terms - (a - 1) * torch.digamma(a) - (b - 1) * torch.digamma(b)
        return terms.sum(-1).to(self.alpha.dtype)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,); the bounds must be equal, which is not checked."""
        check_pair(self, new)
        (a, b), (new_a, new_b) = self._wide(), new._wide()
        # The Bregman divergence of log B: log B(new) − log B(old) − ∇log B(old)·(new − old).
        da, db = new_a - a, new_b - b
        slope = da * torch.digamma(a) + db * torch.digamma(b) - (da + db) * torch.digamma(a + b)
        terms = log_beta(new_a, new_b) - log_beta(a, b) - slope
        return terms.sum(-1).to(self.alpha.dtype)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return the product with [[ψ'(α) − ψ'(α+β), −ψ'(α+β)], [−ψ'(α+β), ψ'(β) − ψ'(α+β)]]."""
        aa, ab, bb = self._metric()
        da, db = (t.to(aa.dtype) for t in tangent)
        dtype = self.alpha.dtype
        return (aa * da + ab * db).to(dtype), (ab * da + bb * db).to(dtype)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return the product with the lower Cholesky factor of each 2 × 2 matrix."""
        aa, ab, bb = self._metric()
        first, second = (w.to(aa.dtype) for w in white)
        root = aa.sqrt()
        rest = (bb - ab.square() / aa).clamp_min(0).sqrt()
        dtype = self.alpha.dtype
        return (root * first).to(dtype), (ab / root * first + rest * second).to(dtype)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A) as x = g / (g + h), with g and h from gamma distributions."""
        with torch.no_grad():
            g, h = (torch._standard_gamma(c, generator=generator) for c in self._wide())
            return self._scaled(self._inside((g / (g + h)).to(self.alpha.dtype)))

    def _wide(self) -> tuple[Tensor, Tensor]:
        dtype = host.scalar_dtype(self.alpha.device)
        return self.alpha.to(dtype), self.beta.to(dtype)

    def _metric(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the entries (α, α), (α, β) and (β, β) of each 2 × 2 Fisher matrix."""
        a, b = self._wide()
        both = trigamma(a + b)
        return trigamma(a) - both, -both, trigamma(b) - both

    def _inside(self, x: Tensor) -> Tensor:
        """Keep x off 0 and 1, where a density may be zero or infinite."""
        eps = torch.finfo(self.alpha.dtype).eps
        return x.clamp(eps, 1 - eps)

    def _scaled(self, x: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * x


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Return log B(a, b)."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def trigamma(x: Tensor) -> Tensor:
    """Return ψ'(x) = ψ'(x + 10) + Σ 1 / (x + k)²; torch's has a relative error of 1e-9 where x < 10."""
    terms = [(x + k).square().reciprocal() for k in range(10)]
    return torch.stack([*reversed(terms), torch.polygamma(1, x + 10)]).sum(0)
