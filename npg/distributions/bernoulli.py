"""Independent bits."""

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


@dataclass(frozen=True, eq=False)
class Bernoulli(Distribution):
    """Independent bits.

    Args:
        logits: log-odds of a 1, (N, A); -inf forbids a 1, inf a 0.
    """

    logits: Tensor

    def masked(self, masks: Tensor) -> Self:
        """Return the distributions on the values where `masks` (N, 2 A) is true.

        The entries 2 i and 2 i + 1 say whether bit i may be 0, and whether it may be 1.
        """
        size = self.logits.shape[-1]
        check_masks(masks, (*self.logits.shape[:-1], 2 * size))
        zero, one = masks[..., 0::2], masks[..., 1::2]
        logits = torch.where(zero, self.logits, math.inf)
        return type(self)(torch.where(one, logits, torch.where(zero, -math.inf, math.nan).to(logits)))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A) in {0, 1}, shape (N,)."""
        check_shape(actions, self.logits.shape)
        return F.logsigmoid(torch.where(actions > 0, self.logits, -self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the joint entropy, shape (N,)."""
        p, not_p = self._probabilities()
        log_p, log_not_p = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return -(p * torch.where(p > 0, log_p, 0) + not_p * torch.where(not_p > 0, log_not_p, 0)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return the joint KL(self ‖ new), shape (N,)."""
        check_pair(self, new)
        (p, not_p), (q, not_q) = self._probabilities(), new._probabilities()
        off = F.softplus(self.logits) - F.softplus(new.logits)
        on = new.logits - self.logits + off
        # Of a bit with a forbidden value, the other one has probability 1: differences would be ∞ − ∞.
        fixed = self.logits.isinf()
        on = torch.where(fixed, F.logsigmoid(new.logits), on)
        off = torch.where(fixed, F.logsigmoid(-new.logits), off)
        return (kl_terms(p, q, on) + kl_terms(not_p, not_q, off)).sum(-1)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return p (1 − p) t."""
        (t,) = tangent
        p, not_p = self._probabilities()
        return (p * not_p * t,)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return √(p (1 − p)) w."""
        (w,) = white
        p, not_p = self._probabilities()
        return ((p * not_p).sqrt() * w,)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A) in {0, 1}, of the logits' dtype."""
        return torch.bernoulli(torch.sigmoid(self.logits.detach()), generator=generator)

    def _probabilities(self) -> tuple[Tensor, Tensor]:
        """Return p and 1 − p, (N, A) each; computing 1 − p from p would round a small 1 − p to 0."""
        return torch.sigmoid(self.logits), torch.sigmoid(-self.logits)
