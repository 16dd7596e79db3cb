"""The abstract base class of action distributions."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Self

import torch
from torch import Generator, Tensor

Coordinates = tuple[Tensor, ...]


class Distribution(ABC):
    """A policy's action distributions, one per state, as an immutable value.

    The package docstring explains how to add one.
    """

    @property
    def coordinates(self) -> Coordinates:
        """The tensors, each (N, ...), that describe the distribution; by default the dataclass's fields."""
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def snapshot(self) -> Self:
        """Return a detached copy, which later changes of the parameters do not affect."""
        return type(self)(*(z.detach().clone() for z in self.coordinates))

    def masked(self, masks: Tensor) -> Self:
        """Return the distributions of the same coordinates on the allowed outcomes alone.

        All values and derivatives are those of distributions that lack the other outcomes; the coordinates of
        these have no effect, not even if they are NaN. A state in which no outcome is allowed gives NaN.

        Args:
            masks: bool, whether an outcome is allowed; a family with outcomes describes its shape.

        Raises:
            TypeError: the family has no outcomes that could be excluded.
            ValueError: the masks have another shape or dtype.
        """
        raise TypeError(f"a {type(self).__name__} has no single outcomes, so a mask cannot exclude any")

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(action | state), (N,), in nats."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the entropy per state, (N,), in nats."""

    @abstractmethod
    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new) per state, (N,), in nats."""

    @abstractmethod
    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return each state's Fisher matrix times a tangent; both are shaped as `coordinates`."""

    @abstractmethod
    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return each state's B times a vector, both shaped as `coordinates`; B Bᵀ is the Fisher matrix.

        B maps white noise to a vector with the mean and covariance of the score.
        """

    @abstractmethod
    def sample(self, generator: Generator | None = None) -> Tensor:
        """Return one action per state, without a gradient."""


def kl_terms(p: Tensor, q: Tensor, log_ratio: Tensor) -> Tensor:
    """Return q − p − p log(q/p) per outcome: terms that are never negative and add up to KL(p ‖ q).

    The terms p log(p/q) have the same sum, but largely cancel: in float32 their rounding exceeds a KL of
    1e-8. An outcome with p = 0 contributes q, the limit, whatever its `log_ratio`.

    Args:
        p: probabilities of all outcomes.
        q: their probabilities in the other distribution.
        log_ratio: log(q/p); only its relative error matters.
    """
    d = torch.where(p > 0, log_ratio, 0)
    small = d.abs() < 0.5
    near = torch.where(small, d, 0)  # elsewhere expm1 could overflow, which would make derivatives NaN
    return torch.where(small, p * (torch.expm1(near) - near), q - p - p * d)


def check_shape(actions: Tensor, expected: tuple[int, ...]) -> None:
    """Check the shape of actions: (N, 1) with logits (N,) would silently broadcast to (N, N).

    Raises:
        ValueError: the shapes differ.
    """
    if tuple(actions.shape) != tuple(expected):
        raise ValueError(
            f"actions must have shape {tuple(expected)}, one action per state; got {tuple(actions.shape)}"
        )


def check_masks(masks: Tensor, expected: tuple[int, ...]) -> None:
    """Check the shape and dtype of masks.

    Raises:
        ValueError: they differ from what is expected.
    """
    if tuple(masks.shape) != tuple(expected) or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be of torch.bool and have shape {tuple(expected)}, one entry per state and outcome; "
            f"got {masks.dtype} and {tuple(masks.shape)}"
        )


def check_pair(old: Distribution, new: Distribution) -> None:
    """Check that two distributions can be compared.

    Raises:
        TypeError: their families differ.
        ValueError: their shapes differ.
    """
    if type(new) is not type(old):
        raise TypeError(
            f"KL needs distributions of the same family, got {type(old).__name__} and {type(new).__name__}"
        )
    old_shapes, new_shapes = ([tuple(z.shape) for z in d.coordinates] for d in (old, new))
    if old_shapes != new_shapes:
        raise ValueError(f"KL needs distributions of the same shape, got {old_shapes} and {new_shapes}")
