"""Several independent choices."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from npg.distributions.categorical import Categorical
from npg.distributions.distribution import Coordinates, Distribution, check_masks, check_pair, check_shape


@dataclass(frozen=True, eq=False)
class MultiCategorical(Distribution):
    """Several independent choices.

    Args:
        logits: one tensor (N, K_i) per choice.

    Raises:
        ValueError: no choice was given.
    """

    logits: Iterable[Tensor]

    def __post_init__(self) -> None:
        logits = tuple(self.logits)
        if not logits:
            raise ValueError("MultiCategorical expects at least one tensor of logits, got none")
        object.__setattr__(self, "logits", logits)

    @property
    def choices(self) -> tuple[Categorical, ...]:
        """One distribution per choice."""
        return tuple(Categorical(logits) for logits in self.logits)

    @property
    def coordinates(self) -> Coordinates:
        """The logits (N, K_i) of every choice."""
        return tuple(self.logits)

    def snapshot(self) -> Self:
        """Return a detached copy, which later changes of the parameters do not affect."""
        return type(self)(tuple(logits.detach().clone() for logits in self.logits))

    def masked(self, masks: Tensor) -> Self:
        """Return the distributions where `masks` (N, Σ K_i) is true, with the choices' entries in order."""
        sizes = [logits.shape[-1] for logits in self.logits]
        check_masks(masks, (*self.coordinates[0].shape[:-1], sum(sizes)))
        parts = zip(self.choices, torch.split(masks, sizes, -1), strict=True)
        return type(self)([choice.masked(part).logits for choice, part in parts])

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of integer actions (N, A), shape (N,)."""
        choices = self.choices
        check_shape(actions, (*choices[0].logits.shape[:-1], len(choices)))
        pairs = zip(choices, actions.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(action) for choice, action in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """Return the joint entropy, shape (N,)."""
        return torch.stack([choice.entropy() for choice in self.choices]).sum(0)

    def kl(self, new: Self) -> Tensor:
        """Return the joint KL(self ‖ new), shape (N,)."""
        check_pair(self, new)
        pairs = zip(self.choices, new.choices, strict=True)
        return torch.stack([old.kl(other) for old, other in pairs]).sum(0)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Multiply every choice's tangent by that choice's metric: there are no cross terms."""
        pairs = zip(self.choices, tangent, strict=True)
        return tuple(choice.fisher_product((t,))[0] for choice, t in pairs)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Multiply every choice's part by that choice's root."""
        pairs = zip(self.choices, white, strict=True)
        return tuple(choice.fisher_root_product((w,))[0] for choice, w in pairs)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A), int64."""
        return torch.stack([choice.sample(generator) for choice in self.choices], -1)
