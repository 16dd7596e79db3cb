"""One choice out of K."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from npg.distributions.distribution import (
    Coordinates,
    Distribution,
    check_masks,
    check_pair,
    check_shape,
    kl_terms,
)

ALMOST_CERTAIN = -0.01  # the log-probability above which a choice is almost certain


@dataclass(frozen=True, eq=False)
class Categorical(Distribution):
    """One choice out of K.

    Args:
        logits: unnormalised log-probabilities, (N, K); -inf forbids a choice.
    """

    logits: Tensor

    def masked(self, masks: Tensor) -> Self:
        """Return the distributions on the choices where `masks` (N, K) is true."""
        check_masks(masks, self.logits.shape)
        return type(self)(torch.where(masks, self.logits, -math.inf))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of integer actions (N,), shape (N,)."""
        check_shape(actions, self.logits.shape[:-1])
        log_p = self._log_probabilities()
        return log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy, shape (N,); at most log K."""
        log_p = self._log_probabilities()
        p = log_p.exp()
        return -(p * torch.where(p > 0, log_p, 0)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,); a choice forbidden in `self` contributes nothing."""
        check_pair(self, new)
        # Subtract the logits themselves, which is exact if they are close. The rounding of the normalisation
        # is the same for all choices, and cancels to first order.
        normalisation = torch.logsumexp(new.logits, -1, keepdim=True) - torch.logsumexp(
            self.logits, -1, keepdim=True
        )
        log_ratio = new.logits - self.logits - normalisation
        return kl_terms(F.softmax(self.logits, -1), F.softmax(new.logits, -1), log_ratio).sum(-1)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return p ⊙ (t − p·t), the product with diag(p) − p pᵀ."""
        (t,) = tangent
        p = F.softmax(self.logits, -1)
        return (p * (t - (p * t).sum(-1, keepdim=True)),)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return √p ⊙ (w − √p (√p·w)): diag(√p) times a projection, since √p has unit length."""
        (w,) = white
        root = F.softmax(self.logits, -1).sqrt()
        return (root * (w - root * (root * w).sum(-1, keepdim=True)),)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N,), int64."""
        p = F.softmax(self.logits.detach(), -1)
        draws = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator)
        return draws.reshape(p.shape[:-1])

    def _log_probabilities(self) -> Tensor:
        """Return log p (N, K); for an almost certain choice as log(1 − Σ p of the others), for precision."""
        log_p = F.log_softmax(self.logits, -1)
        certain = log_p > ALMOST_CERTAIN
        others = torch.where(certain, 0, log_p.exp()).sum(-1, keepdim=True)
        # Mask the argument too, since the derivative of the logarithm is infinite at 0.
        return torch.where(certain, torch.log1p(-torch.where(certain, others, 0)), log_p)
