"""Slow dense references, written without the code under test.

Distributions are handed to `torch.distributions`, expectations are enumerated (or integrated by a
Gauss-Hermite rule that is exact for the polynomials met here), derivatives come from `torch.func`.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch import distributions as td
from torch.func import functional_call, hessian, jacrev

from npg import Bernoulli, Categorical, DiagGaussian, Distribution, LinearOperator, MultiCategorical

FAMILIES = (
    "gaussian",  # a scale that depends on no state
    "gaussian_of_state",
    "gaussian_frozen",  # the scale is a buffer
    "categorical",
    "multi_categorical",
    "bernoulli",
)
OBSERVATION_SIZE = 3


def generator(seed: int) -> Generator:
    """Return a seeded source of randomness."""
    return Generator().manual_seed(seed)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


# --- distributions ---------------------------------------------------------------------------------


def factors(distribution: Distribution) -> list[td.Distribution]:
    """Return the same distribution as independent factors of `torch.distributions`."""
    match distribution:
        case DiagGaussian(mean, log_std):
            return [td.Independent(td.Normal(mean, log_std.exp(), validate_args=False), 1)]
        case Bernoulli(logits):
            return [td.Independent(td.Bernoulli(logits=logits, validate_args=False), 1)]
        case Categorical(logits):
            return [td.Categorical(logits=logits, validate_args=False)]
        case MultiCategorical(logits):
            return [td.Categorical(logits=one, validate_args=False) for one in logits]
    raise NotImplementedError(type(distribution).__name__)


def log_prob(distribution: Distribution, actions: Tensor) -> Tensor:
    """Return log π, shape (..., N): actions may have further leading dimensions."""
    parts = factors(distribution)
    split = actions.unbind(-1) if isinstance(distribution, MultiCategorical) else [actions]
    return torch.stack([part.log_prob(a) for part, a in zip(parts, split, strict=True)]).sum(0)


def entropy(distribution: Distribution) -> Tensor:
    """Return the joint entropy, shape (N,)."""
    return torch.stack([part.entropy() for part in factors(distribution)]).sum(0)


def kl(old: Distribution, new: Distribution) -> Tensor:
    """Return the joint KL(old ‖ new), shape (N,)."""
    pairs = zip(factors(old), factors(new), strict=True)
    return torch.stack([td.kl_divergence(p, q) for p, q in pairs]).sum(0)


def quadrature(distribution: Distribution, nodes: int = 4) -> tuple[Tensor, Tensor]:
    """Return (actions (M, N, ...), weights (M, N)) whose weighted sums are expectations.

    Discrete actions are enumerated; a Gauss-Hermite rule of m nodes a dimension integrates polynomials
    up to degree 2m - 1 exactly, and a Gaussian's score is one of degree 2.
    """
    first = distribution.coordinates[0].detach()
    if isinstance(distribution, DiagGaussian):
        x, w = (torch.from_numpy(a).to(first) for a in np.polynomial.hermite_e.hermegauss(nodes))
        grid = torch.cartesian_prod(*[x] * first.shape[-1]).reshape(-1, 1, first.shape[-1])
        weights = torch.cartesian_prod(*[w] * first.shape[-1]).reshape(len(grid), -1)
        weights = (weights / math.sqrt(2 * math.pi)).prod(-1, keepdim=True)
        return first + distribution.log_std.detach().exp() * grid, weights.expand(-1, len(first))
    if isinstance(distribution, Categorical):
        actions = torch.arange(first.shape[-1]).unsqueeze(-1).expand(-1, len(first))
    else:
        sizes = (
            [2] * first.shape[-1]
            if isinstance(distribution, Bernoulli)
            else [logits.shape[-1] for logits in distribution.coordinates]
        )
        rows = torch.tensor(list(itertools.product(*map(range, sizes))))
        actions = rows.unsqueeze(1).expand(-1, len(first), -1)
    actions = actions.to(first.dtype) if isinstance(distribution, Bernoulli) else actions
    return actions, log_prob(distribution, actions).detach().exp()


# --- Fisher matrices -------------------------------------------------------------------------------


def flat_parameters(actor: nn.Module) -> Tensor:
    """Return the trainable parameters in `parameters()` order, shape (P,)."""
    return torch.cat([p.detach().reshape(-1) for p in actor.parameters() if p.requires_grad])


def as_function(actor: nn.Module, observations: Any) -> Callable[[Tensor], Distribution]:
    """Return the actor as a function of its flat parameters (P,)."""
    shapes = {name: p.shape for name, p in actor.named_parameters() if p.requires_grad}

    def distribution(vector: Tensor) -> Distribution:
        parts = torch.split(vector, [shape.numel() for shape in shapes.values()])
        named = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return functional_call(actor, named, (observations,), strict=False)

    return distribution


def scores(actor: nn.Module, observations: Any, actions: Tensor) -> Tensor:
    """Return ∇log π of actions (..., N, ...), one row an action, shape (..., N, P)."""
    policy = as_function(actor, observations)
    return jacrev(lambda vector: log_prob(policy(vector), actions))(flat_parameters(actor))


def enumerated_fisher(actor: nn.Module, observations: Any) -> Tensor:
    """Return 1/N Σ_s E_a[∇log π ∇log πᵀ], shape (P, P)."""
    actions, weights = quadrature(actor(observations))
    score = scores(actor, observations, actions)
    return torch.einsum("mn,mni,mnj->ij", weights, score, score) / weights.shape[1]


def negative_expected_hessian(actor: nn.Module, observations: Any) -> Tensor:
    """Return −1/N Σ_s E_a[∇² log π], shape (P, P)."""
    actions, weights = quadrature(actor(observations))
    policy = as_function(actor, observations)

    def expected(vector: Tensor) -> Tensor:
        return (weights * log_prob(policy(vector), actions)).sum() / weights.shape[1]

    return -hessian(expected)(flat_parameters(actor))


# --- random problems -------------------------------------------------------------------------------


class RandomActor(nn.Module):
    """A tanh network of one hidden layer in front of one of FAMILIES, all weights drawn at random."""

    def __init__(self, family: str, seed: int = 0, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.family = family
        outputs = {"gaussian_of_state": 4, "categorical": 3, "multi_categorical": 5}.get(family, 2)
        self.hidden = nn.Linear(OBSERVATION_SIZE, 4)
        self.head = nn.Linear(4, outputs)
        if family == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(2))
        if family == "gaussian_frozen":
            self.register_buffer("log_std", torch.tensor([-0.3, 0.4]))
        self.to(dtype)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(0.7 * randn(1000 * seed + i, *parameter.shape))

    def forward(self, observations: Tensor) -> Distribution:
        """Return the policy at observations (N, 3)."""
        out = self.head(torch.tanh(self.hidden(observations)))
        match self.family:
            case "gaussian" | "gaussian_frozen":
                return DiagGaussian(out, self.log_std)
            case "gaussian_of_state":
                return DiagGaussian(*out.split(2, -1))
            case "categorical":
                return Categorical(out)
            case "multi_categorical":
                return MultiCategorical(out.split((2, 3), -1))
        return Bernoulli(out)


class Table(nn.Module):
    """A policy whose parameters are the coordinates of a distribution; it ignores observations."""

    def __init__(self, distribution: Distribution):
        super().__init__()
        self.family = type(distribution)
        self.coordinates = nn.ParameterList(z.detach().clone() for z in distribution.coordinates)

    def forward(self, observations: Any = None) -> Distribution:
        """Return the distribution of every state."""
        if self.family is MultiCategorical:
            return MultiCategorical(tuple(self.coordinates))
        return self.family(*self.coordinates)


def observations(seed: int, n: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return n random observations (n, 3)."""
    return randn(seed + 7, n, OBSERVATION_SIZE, dtype=dtype)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Return a symmetric matrix with these eigenvalues (P,) and random eigenvectors."""
    q, _ = torch.linalg.qr(randn(seed, len(eigenvalues), len(eigenvalues)))
    matrix = (q * eigenvalues.to(q)) @ q.T
    return ((matrix + matrix.T) / 2).to(eigenvalues.dtype)


class Dense(LinearOperator):
    """A matrix (P, P) as an operator that counts its products."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.products = matrix, 0
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product, counted."""
        self.products += 1
        return self.matrix @ vector
