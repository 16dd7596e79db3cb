"""Action distributions as immutable values, each with its own Fisher metric.

A distribution is described by its *coordinates*, the tensors that a network puts out: mean and log
standard deviation, or logits. `fisher_product` multiplies by the Fisher matrix in those coordinates;
chained with the network's Jacobian J it gives the Fisher matrix Jᵀ F J of the parameters, without ever
differentiating a log-probability twice (Martens 2020, "New insights and perspectives on the natural
gradient method", section 8).

Shapes: N states, A action dimensions, K choices. Everything is summed over action dimensions (the
*joint* distribution) and returned one number a state, in nats.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Coordinates = tuple[Tensor, ...]


@runtime_checkable
class Distribution(Protocol):
    """What the Fisher operators and the objective ask of a policy's output."""

    @property
    def coordinates(self) -> Coordinates:
        """The tensors, each (N, ...), that describe the distribution."""

    def snapshot(self) -> Self:
        """Return a copy that neither autograd nor a later change of the parameters reaches."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(action | state), shape (N,), in nats."""

    def entropy(self) -> Tensor:
        """Return the entropy of every state's distribution, shape (N,), in nats."""

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new) of every state, shape (N,), in nats."""

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Multiply a tangent, shaped as `coordinates`, by every state's Fisher matrix."""

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Multiply by every state's root B, where B Bᵀ is its Fisher matrix.

        Of white noise it makes something with a score's mean and covariance.
        """

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw one action a state."""


@dataclass(frozen=True, eq=False)
class DiagGaussian:
    """A Gaussian with independent action dimensions.

    Args:
        mean: (N, A).
        log_std: logarithm of the standard deviation, (N, A), or (A,) where it depends on no state.

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

    @property
    def coordinates(self) -> Coordinates:
        """(mean, log_std), each (N, A)."""
        return self.mean, self.log_std

    def snapshot(self) -> Self:
        """Return a copy that neither autograd nor a later change of the parameters reaches."""
        return type(self)(self.mean.detach().clone(), self.log_std.detach().clone())

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A), shape (N,)."""
        _check_shape(actions, self.mean.shape)
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shape (N,)."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,)."""
        _check_pair(self, new)
        # With r = σ_old/σ_new: ½ (r² − 1 − 2 log r + Δμ²/σ_new²); expm1 keeps small differences exact.
        log_ratio = self.log_std - new.log_std
        shift = (self.mean - new.mean) * torch.exp(-new.log_std)
        return (0.5 * (torch.expm1(2 * log_ratio) + shift.square()) - log_ratio).sum(-1)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return (dμ/σ², 2 d log σ): mean and scale of a Gaussian are orthogonal."""
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


@dataclass(frozen=True, eq=False)
class Categorical:
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
        """Return a copy that neither autograd nor a later change of the parameters reaches."""
        return type(self)(self.logits.detach().clone())

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of integer actions (N,), shape (N,)."""
        _check_shape(actions, self.logits.shape[:-1])
        log_p = F.log_softmax(self.logits, -1)
        return log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy, shape (N,); at most log K."""
        log_p = F.log_softmax(self.logits, -1)
        p = log_p.exp()
        return -(p * torch.where(p > 0, log_p, 0)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return KL(self ‖ new), shape (N,); a choice forbidden in `self` contributes nothing."""
        _check_pair(self, new)
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


@dataclass(frozen=True, eq=False)
class MultiCategorical:
    """Several independent choices.

    Args:
        logits: one (N, K_i) tensor a choice.

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
        """The independent factors."""
        return tuple(Categorical(logits) for logits in self.logits)

    @property
    def coordinates(self) -> Coordinates:
        """The logits (N, K_i) of every choice."""
        return tuple(self.logits)

    def snapshot(self) -> Self:
        """Return a copy that neither autograd nor a later change of the parameters reaches."""
        return type(self)(tuple(logits.detach().clone() for logits in self.logits))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of integer actions (N, A), shape (N,)."""
        choices = self.choices
        _check_shape(actions, (*choices[0].logits.shape[:-1], len(choices)))
        pairs = zip(choices, actions.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(action) for choice, action in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """Return the joint entropy, shape (N,)."""
        return torch.stack([choice.entropy() for choice in self.choices]).sum(0)

    def kl(self, new: Self) -> Tensor:
        """Return the joint KL(self ‖ new), shape (N,)."""
        _check_pair(self, new)
        pairs = zip(self.choices, new.choices, strict=True)
        return torch.stack([old.kl(other) for old, other in pairs]).sum(0)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Multiply every choice's tangent by its own metric: independent choices are orthogonal."""
        pairs = zip(self.choices, tangent, strict=True)
        return tuple(choice.fisher_product((t,))[0] for choice, t in pairs)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Multiply every choice's part by its own root."""
        pairs = zip(self.choices, white, strict=True)
        return tuple(choice.fisher_root_product((w,))[0] for choice, w in pairs)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A), int64."""
        return torch.stack([choice.sample(generator) for choice in self.choices], -1)


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent bits.

    Args:
        logits: log-odds of a one, (N, A).
    """

    logits: Tensor

    @property
    def coordinates(self) -> Coordinates:
        """The logits (N, A)."""
        return (self.logits,)

    def snapshot(self) -> Self:
        """Return a copy that neither autograd nor a later change of the parameters reaches."""
        return type(self)(self.logits.detach().clone())

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π of actions (N, A) in {0, 1}, shape (N,)."""
        _check_shape(actions, self.logits.shape)
        ones = actions.to(self.logits.dtype)
        log_p, log_not_p = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return (ones * log_p + (1 - ones) * log_not_p).sum(-1)

    def entropy(self) -> Tensor:
        """Return the joint entropy, shape (N,)."""
        p = torch.sigmoid(self.logits)
        return -(p * F.logsigmoid(self.logits) + (1 - p) * F.logsigmoid(-self.logits)).sum(-1)

    def kl(self, new: Self) -> Tensor:
        """Return the joint KL(self ‖ new), shape (N,)."""
        _check_pair(self, new)
        p = torch.sigmoid(self.logits)
        on = F.logsigmoid(self.logits) - F.logsigmoid(new.logits)
        off = F.logsigmoid(-self.logits) - F.logsigmoid(-new.logits)
        return (p * on + (1 - p) * off).sum(-1)

    def fisher_product(self, tangent: Coordinates) -> Coordinates:
        """Return p (1 − p) t."""
        (t,) = tangent
        return (torch.sigmoid(self.logits) * torch.sigmoid(-self.logits) * t,)

    def fisher_root_product(self, white: Coordinates) -> Coordinates:
        """Return √(p (1 − p)) w."""
        (w,) = white
        return ((torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)).sqrt() * w,)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Draw actions (N, A) in {0, 1}, of the logits' dtype."""
        return torch.bernoulli(torch.sigmoid(self.logits.detach()), generator=generator)


def _check_shape(actions: Tensor, expected: tuple[int, ...]) -> None:
    # Broadcasting (N, 1) actions against (N,) logits would silently give an (N, N) answer.
    if tuple(actions.shape) != tuple(expected):
        raise ValueError(
            f"actions must have shape {tuple(expected)}, one a state; got {tuple(actions.shape)}"
        )


def _check_pair(old: Distribution, new: Distribution) -> None:
    if type(new) is not type(old):
        raise TypeError(
            f"KL needs two distributions of one family, got {type(old).__name__} and {type(new).__name__}"
        )
    old_shapes, new_shapes = ([tuple(z.shape) for z in d.coordinates] for d in (old, new))
    if old_shapes != new_shapes:
        raise ValueError(f"KL needs two distributions of one shape, got {old_shapes} and {new_shapes}")
