"""One choice out of several."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from npg.distributions.distribution import Coordinates, Distribution, check_pair, check_shape


@dataclass(frozen=True, eq=False)
class Categorical(Distribution):
    """One choice out of K.

    Args:
        logits: unnormalised log-probabilities, (N, K); -inf forbids a choice.
    """

    logits: Tensor

    @property
    def coordinates(self) -> Coordinates:
        """The logits (N, K)."""
        return (self.logits,)

    def snapshot(self) -> Self:
        """Return a detached copy, which later changes of the parameters do not affect."""
        return type(self)(self.logits.detach().clone())

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of integer actions (N,), shape (N,)."""
        check_shape(actions, self.logits.shape[:-1])
        log_p = F.log_softmax(self.logits, -1)
        return log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy, shape (N,); at most log K."""
        log_p = F.log_softmax(self.logits, -1)
        p = log_p.exp()
        return -(p * torch.where(p > 0, log_p, 0)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,); a choice forbidden in `self` contributes nothing."""
        check_pair(self, new)
        log_p, log_q = F.log_softmax(self.logits, -1), F.log_softmax(new.logits, -1)
        p = log_p.exp()
        # Chosen before the product: 0 · (−∞ − −∞) would be NaN, and so would its derivative.
        return (p * torch.where(p > 0, log_p - log_q, 0)).sum(-1)

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
