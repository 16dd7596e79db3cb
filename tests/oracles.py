"""Slow dense references, written without the code under test.

Distributions are handed to `torch.distributions`, expectations are enumerated (or integrated by a
Gauss-Hermite rule that is exact for the polynomials met here), derivatives come from `torch.func`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch import distributions as td
from torch.func import functional_call, hessian, jacrev

from npg import (
    Bernoulli,
    Beta,
    Categorical,
    DiagGaussian,
    Distribution,
    Estimate,
    FullGaussian,
    LinearOperator,
    MultiCategorical,
)

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
        case FullGaussian(mean, factor):
            return [td.MultivariateNormal(mean, scale_tril=triangular(factor, mean.shape[-1]))]
        case Beta(alpha, beta, low, high):
            scaling = td.AffineTransform(low, high - low)
            inner = td.Beta(alpha, beta, validate_args=False)
            return [td.Independent(td.TransformedDistribution(inner, scaling, validate_args=False), 1)]
        case Bernoulli(logits):
            return [td.Independent(td.Bernoulli(logits=logits, validate_args=False), 1)]
        case Categorical(logits):
            return [td.Categorical(logits=logits, validate_args=False)]
        case MultiCategorical(logits):
            return [td.Categorical(logits=one, validate_args=False) for one in logits]
    raise NotImplementedError(type(distribution).__name__)


def triangular(factor: Tensor, size: int) -> Tensor:
    """Return the matrices (..., A, A) of a `FullGaussian`, entry after entry."""
    rows = []
    for i in range(size):
        first = size + i * (i - 1) // 2
        row = [*factor[..., first : first + i].unbind(-1), factor[..., i].exp()]
        rows.append(torch.stack([*row, *[torch.zeros_like(row[-1])] * (size - 1 - i)], -1))
    return torch.stack(rows, -2)


def log_prob(distribution: Distribution, actions: Tensor) -> Tensor:
    """Return log π, shape (..., N): actions may have further leading dimensions."""
    parts = factors(distribution)
    split = actions.unbind(-1) if isinstance(distribution, MultiCategorical) else [actions]
    return torch.stack([part.log_prob(a) for part, a in zip(parts, split, strict=True)]).sum(0)


def entropy(distribution: Distribution) -> Tensor:
    """Return the joint entropy, shape (N,)."""
    if isinstance(distribution, Beta):  # torch has none for a transformed distribution
        width = torch.as_tensor(distribution.high - distribution.low, dtype=torch.float64).log()
        return (td.Beta(*distribution.coordinates).entropy() + width).sum(-1)
    return torch.stack([part.entropy() for part in factors(distribution)]).sum(0)


def kl(old: Distribution, new: Distribution) -> Tensor:
    """Return the joint KL(old ‖ new), shape (N,)."""
    if isinstance(old, Beta):
        return td.kl_divergence(*(td.Beta(*each.coordinates) for each in (old, new))).sum(-1)
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
    if isinstance(distribution, FullGaussian):
        white = DiagGaussian(torch.zeros_like(first), torch.zeros_like(first))
        grid, weights = quadrature(white, nodes)
        root = triangular(distribution.factor.detach(), first.shape[-1])
        return first + torch.einsum("nij,mnj->mni", root, grid.expand(-1, len(first), -1)), weights
    if isinstance(
        distribution, Beta
    ):  # trapezoids after x = 1 / (1 + exp(-t)); the error falls as exp(-2π²/h)
        assert first.shape[-1] == 1
        step, t = 0.25, torch.arange(-35, 35, 0.25, dtype=first.dtype)
        x = torch.sigmoid(t).reshape(-1, 1, 1).expand(-1, *first.shape)
        density = td.Beta(*(z.detach() for z in distribution.coordinates)).log_prob(x).exp()
        actions = distribution.low + (distribution.high - distribution.low) * x
        return actions, (step * density * x * (1 - x)).squeeze(-1)
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
    parameters = [p for p in actor.parameters() if p.requires_grad]
    # Every module once: of one under two names, `tie_weights` would restore the replacement as the parameter.
    owners = {
        f"{prefix}.{name}".lstrip("."): id(parameter)
        for prefix, module in actor.named_modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }

    def distribution(vector: Tensor) -> Distribution:
        parts = zip(torch.split(vector, [p.numel() for p in parameters]), parameters, strict=True)
        given = {id(p): part.reshape(p.shape) for part, p in parts}
        named = {name: given[owner] for name, owner in owners.items() if owner in given}
        return functional_call(actor, named, (observations,), tie_weights=False, strict=False)

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


def empirical_fisher(actor: nn.Module, observations: Any, actions: Tensor) -> Tensor:
    """Return 1/N Σ ∇log π ∇log πᵀ at given actions, shape (P, P)."""
    score = scores(actor, observations, actions)
    return score.T @ score / len(score)


def likelihood_hessian(actor: nn.Module, observations: Any, actions: Tensor) -> Tensor:
    """Return −1/N Σ ∇² log π at given actions, shape (P, P)."""
    policy = as_function(actor, observations)
    return -hessian(lambda vector: log_prob(policy(vector), actions).mean())(flat_parameters(actor))


def modules_of(actor: nn.Module) -> list[str]:
    """Return for each entry of the flat vector the name of the module that holds it."""
    named = [(name, p) for name, p in actor.named_parameters() if p.requires_grad]
    return [name.rpartition(".")[0] for name, p in named for _ in range(p.numel())]


def within_modules(matrix: Tensor, actor: nn.Module) -> Tensor:
    """Return a matrix (P, P) with zeros between the parameters of different modules."""
    owner = modules_of(actor)
    return matrix * torch.tensor([[a == b for a in owner] for b in owner])


def sampled_fisher_error(actor: nn.Module, observations: Any, samples: int) -> Tensor:
    """Return the standard error of each entry of 1/(N k) Σ s sᵀ over k drawn actions a state, (P, P)."""
    actions, weights = quadrature(actor(observations), nodes=6)
    score = scores(actor, observations, actions)
    first = torch.einsum("mn,mni,mnj->nij", weights, score, score)
    second = torch.einsum("mn,mni,mnj->nij", weights, score.square(), score.square())
    states = weights.shape[1]
    return ((second - first.square()).clamp(min=0).sum(0) / samples).sqrt() / states


# --- Kronecker factors -----------------------------------------------------------------------------


def positions(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Return what multiplies the weight of a layer at each position of one input (1, ...), (T, D)."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    x = nn.functional.pad(x[0], (module.padding[1],) * 2 + (module.padding[0],) * 2)
    height = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    rows = []
    for i, j in itertools.product(range(height), range(width)):
        top, left = i * sh, j * sw
        patch = x[:, top : top + dh * (kh - 1) + 1 : dh, left : left + dw * (kw - 1) + 1 : dw]
        rows.append(patch.reshape(-1))
    return torch.stack(rows)


def kronecker_factors(actor: "RandomActor | Stack", observations: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {layer: (A, G)} by their definition: one state after another, actions enumerated, no hook.

    A = E[Σ_t ā āᵀ] and G = E[Σ_t g gᵀ] / T over T positions, ā with a 1 for the bias where there is one.
    """
    parts = [_factors_of_state(actor, state.unsqueeze(0)) for state in observations]
    return {
        name: (sum(part[name][0] for part in parts) / len(parts), sum(p[name][1] for p in parts) / len(parts))
        for name in parts[0]
    }


def _factors_of_state(actor: "RandomActor | Stack", state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    layers = {n: m for n, m in actor.stages() if isinstance(m, nn.Linear | nn.Conv2d)}

    def through(shifts: dict[str, Tensor]) -> tuple[Distribution, dict[str, Tensor], dict[str, Tensor]]:
        """Add a shift to what each layer puts out, and return what went in and came out."""
        x, inputs, outputs = state, {}, {}
        for name, module in actor.stages():
            inputs[name] = x
            x = module(x) + shifts.get(name, 0)
            outputs[name] = x
        return actor.policy(x), inputs, outputs

    with torch.no_grad():
        policy, inputs, outputs = through({})
        actions, weights = quadrature(policy)
        shifts = {name: torch.zeros_like(outputs[name]) for name in layers}
        derivative = jacrev(lambda shifts: log_prob(through(shifts)[0], actions))(shifts)
    factors = {}
    for name, module in layers.items():
        a = positions(module, inputs[name])
        one = torch.ones_like(a[:, :1])
        bias = module.bias is not None and module.bias.requires_grad
        a = torch.cat([a] * module.weight.requires_grad + [one] * bias, 1) if bias else a
        g = derivative[name][:, 0, 0]  # of each action: (M, T, O), (M, O, H, W) or (M, O)
        g = g.flatten(2).mT if isinstance(module, nn.Conv2d) else g.reshape(len(g), -1, g.shape[-1])
        factors[name] = a.T @ a, torch.einsum("m,mti,mtj->ij", weights[:, 0], g, g) / len(a)
    return factors


def layer_places(outputs: int, inputs: int, split_bias: bool) -> Tensor:
    """Return where entry (o, d) of a layer's matrix lies in its part of the flat vector, (O, D')."""
    if not split_bias:
        return torch.arange(outputs * inputs).reshape(outputs, inputs)
    weight = torch.arange(outputs * (inputs - 1)).reshape(outputs, inputs - 1)
    return torch.cat([weight, weight.numel() + torch.arange(outputs).unsqueeze(1)], 1)


def kronecker(A: Tensor, G: Tensor, split_bias: bool) -> Tensor:
    """Return A ⊗ G as a dense matrix on the layer's part of the flat vector."""
    places = layer_places(len(G), len(A), split_bias).reshape(-1)
    dense = torch.empty(len(places), len(places), dtype=A.dtype)
    dense[places.unsqueeze(1), places] = torch.einsum("op,de->odpe", G, A).reshape(dense.shape)
    return dense


def eigenvalue_corrected(A: Tensor, G: Tensor, block: Tensor, split_bias: bool) -> Tensor:
    """Return U diag(Uᵀ F U) Uᵀ for a layer's block F of the Fisher matrix, one eigenvector after another."""
    places = layer_places(len(G), len(A), split_bias)
    corrected = torch.zeros_like(block)
    for g, a in itertools.product(torch.linalg.eigh(G).eigenvectors.T, torch.linalg.eigh(A).eigenvectors.T):
        u = torch.empty(len(block), dtype=block.dtype)
        u[places] = torch.outer(g, a)
        corrected += (u @ block @ u) * torch.outer(u, u)
    return corrected


def layerwise(actor: "RandomActor | Stack", observations: Tensor, *, corrected: bool = False) -> Tensor:
    """Return K-FAC's matrix (P, P), or EKFAC's: exact blocks for what is no layer."""
    dense = within_modules(enumerated_fisher(actor, observations), actor)
    owner, layers = modules_of(actor), dict(actor.stages())
    for name, (A, G) in kronecker_factors(actor, observations).items():
        rows = torch.tensor([i for i, module in enumerate(owner) if module == name])
        trained = [n for n, p in layers[name].named_parameters() if p.requires_grad]
        if not trained:
            continue
        block = dense[rows][:, rows]
        split_bias = len(trained) == 2
        dense[rows.unsqueeze(1), rows] = (
            eigenvalue_corrected(A, G, block, split_bias) if corrected else kronecker(A, G, split_bias)
        )
    return dense


# --- random problems -------------------------------------------------------------------------------


def outputs_of(family: str) -> int:
    """Return how many numbers a network puts out for one of FAMILIES."""
    return {"gaussian_of_state": 4, "categorical": 3, "multi_categorical": 5}.get(family, 2)


def policy_of(family: str, out: Tensor, log_std: Tensor | None) -> Distribution:
    """Return the distribution of one of FAMILIES from what a network put out."""
    match family:
        case "gaussian" | "gaussian_frozen":
            return DiagGaussian(out, log_std)
        case "gaussian_of_state":
            return DiagGaussian(*out.split(2, -1))
        case "categorical":
            return Categorical(out)
        case "multi_categorical":
            return MultiCategorical(out.split((2, 3), -1))
    return Bernoulli(out)


def draw_weights_(module: nn.Module, seed: int) -> None:
    """Draw all parameters at random."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.7 * randn(1000 * seed + i, *parameter.shape))


class RandomActor(nn.Module):
    """A tanh network of one hidden layer in front of one of FAMILIES, all weights drawn at random."""

    def __init__(self, family: str, seed: int = 0, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.family = family
        self.hidden = nn.Linear(OBSERVATION_SIZE, 4)
        self.head = nn.Linear(4, outputs_of(family))
        if family == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(2))
        if family == "gaussian_frozen":
            self.register_buffer("log_std", torch.tensor([-0.3, 0.4]))
        self.to(dtype)
        draw_weights_(self, seed)

    def forward(self, observations: Tensor) -> Distribution:
        """Return the policy at observations (N, 3)."""
        return self.policy(self.head(torch.tanh(self.hidden(observations))))

    def policy(self, out: Tensor) -> Distribution:
        """Return the policy from the network's output."""
        return policy_of(self.family, out, getattr(self, "log_std", None))

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Return what the observations go through, one after another, by name."""
        return [("hidden", self.hidden), ("", nn.Tanh()), ("head", self.head)]


class Stack(nn.Module):
    """Modules one after another in front of one of FAMILIES, all weights drawn at random."""

    def __init__(self, family: str, *modules: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.family = family
        self.body = nn.Sequential(*modules)
        if family == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(2))
        if family == "gaussian_frozen":
            self.register_buffer("log_std", torch.tensor([-0.3, 0.4]))
        self.to(dtype)
        draw_weights_(self, seed)

    def forward(self, observations: Tensor) -> Distribution:
        """Return the policy."""
        return self.policy(self.body(observations))

    def policy(self, out: Tensor) -> Distribution:
        """Return the policy from the network's output."""
        return policy_of(self.family, out, getattr(self, "log_std", None))

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Return what the observations go through, one after another, by name."""
        return [(f"body.{name}", module) for name, module in self.body.named_children()]


class MeanOverTime(nn.Module):
    """(N, T, D) -> (N, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the second dimension."""
        return x.mean(1)


def actions_of(actor: nn.Module, observations: Any) -> Tensor:
    """Return one action a state that depends on that state alone, so that a part of a batch has a part."""
    distribution = actor(observations)
    if not isinstance(distribution, Distribution):
        return torch.zeros(len(observations))
    first = distribution.coordinates[0].detach()
    noise = [
        (997 * (k + 1) * z.detach().clamp(min=-9).sum(-1)) % 1
        for k, z in enumerate(
            [first] * first.shape[-1]
            if not isinstance(distribution, MultiCategorical)
            else distribution.coordinates
        )
    ]
    match distribution:
        case DiagGaussian(mean, log_std):
            return (mean + log_std.exp() * (4 * torch.stack(noise, -1) - 2)).detach()
        case Categorical(logits):
            return (noise[0] * logits.shape[-1]).long()
        case Bernoulli(_):
            return torch.stack(noise, -1).round()
    sizes = [logits.shape[-1] for logits in distribution.coordinates]
    return torch.stack([(u * size).long() for u, size in zip(noise, sizes, strict=True)], -1)


class Table(nn.Module):
    """A policy whose parameters are the coordinates of a distribution; it ignores observations."""

    def __init__(self, distribution: Distribution):
        super().__init__()
        self.family: Callable[..., Distribution] = type(distribution)
        if isinstance(distribution, Beta):
            self.family = functools.partial(Beta, low=distribution.low, high=distribution.high)
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


def geometric(size: int = 40, seed: int = 0) -> Tensor:
    """Return a matrix whose eigenvalues fall from 1 to 1e-4."""
    return symmetric(torch.logspace(0, -4, size, dtype=torch.float64), seed)


def within(estimate: Estimate, truth: float, errors: float = 4) -> None:
    """Assert that an estimate lies within so many of its own standard errors."""
    assert abs(estimate.value - truth) <= errors * estimate.standard_error


class Dense(LinearOperator):
    """A matrix (P, P) as an operator that counts its products."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.products = matrix, 0
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product, counted."""
        self.products += 1
        return self.matrix @ vector
