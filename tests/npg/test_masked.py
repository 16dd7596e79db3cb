"""Masked distributions against distributions that lack the excluded outcomes, and against enumeration."""

import math

import oracles
import pytest
import torch
from torch import Tensor, nn

from npg import (
    Bernoulli,
    Beta,
    Categorical,
    Damped,
    DiagGaussian,
    Distribution,
    ExactFisher,
    KroneckerFisher,
    MultiCategorical,
    SurrogateObjective,
    conjugate_gradient,
    trust_region_step,
)

N, SIZES = 7, (2, 3, 4)
WIDTH = {"categorical": 5, "multi_categorical": sum(SIZES), "bernoulli": 6}  # entries of a mask
every_family = pytest.mark.parametrize("family", WIDTH)


def equal(a: Tensor, b: Tensor) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def outputs(family: str, seed: int = 0) -> Tensor:
    """Return what a network's last layer might return, (N, K)."""
    return 2 * oracles.randn(seed, N, 3 if family == "bernoulli" else WIDTH[family])


def make(family: str, logits: Tensor) -> Distribution:
    """Return the family's distribution for a layer's outputs."""
    if family == "multi_categorical":
        return MultiCategorical(logits.split(SIZES, -1))
    return Categorical(logits) if family == "categorical" else Bernoulli(logits)


def choices(family: str) -> list[slice]:
    """Return the parts of a mask's row of which one entry at least has to be true."""
    sizes = {"categorical": (5,), "multi_categorical": SIZES, "bernoulli": (2, 2, 2)}[family]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def masks_of(family: str, seed: int = 0) -> Tensor:
    """Return random masks: the first state allows everything, the second one outcome per choice."""
    masks = torch.rand(N, WIDTH[family], generator=oracles.generator(seed)) < 0.6
    masks[0] = True
    masks[1] = False
    for part in choices(family):
        column = torch.randint(part.stop - part.start, (N,), generator=oracles.generator(seed + 9))
        masks[torch.arange(N), part.start + column] = True
    return masks


def outcomes(family: str, mask: Tensor) -> Tensor:
    """Return all actions that one state's mask allows, (M, ...)."""
    allowed = [mask[part].nonzero().flatten() for part in choices(family)]
    actions = torch.cartesian_prod(*allowed)
    return actions.double() if family == "bernoulli" else actions


def logits_of(family: str, row: Tensor) -> list[Tensor]:
    """Return the logits of each choice of one state; a bit is a choice between 0 and its logit."""
    if family == "bernoulli":
        return [torch.stack([torch.zeros_like(logit), logit]) for logit in row]
    return [row[part] for part in choices(family)]


def enumerated(family: str, row: Tensor, mask: Tensor) -> Tensor:
    """Return the probabilities of `outcomes`, by a softmax over the allowed entries of each choice, (M,)."""
    allowed = [mask[part] for part in choices(family)]
    parts = [logits[keep].softmax(0) for logits, keep in zip(logits_of(family, row), allowed, strict=True)]
    return torch.cartesian_prod(*parts).reshape(-1, len(parts)).prod(-1)


@every_family
def test_values_are_those_of_enumeration(family: str) -> None:
    """Log-probability, entropy and KL, state by state, over the allowed outcomes alone."""
    old, new, masks = outputs(family, 0), outputs(family, 1), masks_of(family)
    policy, other = make(family, old).masked(masks), make(family, new).masked(masks)
    entropy, kl = policy.entropy(), policy.kl(other)
    for i in range(N):
        p, q = enumerated(family, old[i], masks[i]), enumerated(family, new[i], masks[i])
        actions = outcomes(family, masks[i])
        one = make(family, old[i].expand(len(actions), -1)).masked(masks[i].expand(len(actions), -1))
        equal(one.log_prob(actions), p.log())
        equal(entropy[i], -(p * p.log()).sum())
        equal(kl[i], (p * (p / q).log()).sum())


@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_values_are_those_of_torch(family: str) -> None:
    """torch.distributions on logits of which the excluded ones are −∞; it has no such Bernoulli."""
    masks = masks_of(family)
    old, new = (make(family, outputs(family, seed)).masked(masks) for seed in (0, 1))
    actions = old.sample(oracles.generator(0))
    equal(old.log_prob(actions), oracles.log_prob(old, actions))
    equal(old.entropy(), oracles.entropy(old))
    equal(old.kl(new), oracles.kl(old, new))


class Actor(nn.Module):
    """A linear policy whose input is a pair of observations and masks."""

    def __init__(self, family: str):
        super().__init__()
        self.family = family
        self.layer = nn.Linear(2, outputs(family).shape[1], dtype=torch.float64)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.init.normal_(self.layer.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Distribution:
        """Return the masked distributions."""
        observations, masks = inputs
        return make(self.family, self.layer(observations)).masked(masks)


def enumerated_matrix(actor: Actor, inputs: tuple[Tensor, Tensor]) -> Tensor:
    """Return 1/N Σ_s E[∇log π ∇log πᵀ], with log π from `enumerated`, action by action."""
    parameters = list(actor.parameters())
    total = torch.zeros(2 * [sum(p.numel() for p in parameters)], dtype=torch.float64)
    for observation, mask in zip(*inputs, strict=True):
        p = enumerated(actor.family, actor.layer(observation), mask)
        for probability in p:
            found = torch.autograd.grad(probability.log(), parameters, retain_graph=True)
            score = torch.cat([g.flatten() for g in found])
            total += probability.detach() * torch.outer(score, score)
    return total / len(inputs[0])


@every_family
def test_the_fisher_matrix_is_that_of_enumeration(family: str) -> None:
    """J^T M J with the masked metric is E[∇log π ∇log πᵀ] over the allowed outcomes."""
    actor, inputs = Actor(family), (oracles.randn(5, N, 2), masks_of(family))
    equal(ExactFisher(actor, inputs).to_dense(), enumerated_matrix(actor, inputs))
    small = ExactFisher(actor, inputs, micro_batch_size=3)
    equal(small.to_dense(), enumerated_matrix(actor, inputs))


@every_family
def test_the_root_is_a_root_of_the_metric(family: str) -> None:
    """B Bᵀ w = M w for every unit vector w."""
    policy = make(family, outputs(family)).masked(masks_of(family))
    for i, coordinate in enumerate(policy.coordinates):
        for k in range(coordinate.shape[-1]):
            unit = [torch.zeros_like(z) for z in policy.coordinates]
            unit[i][:, k] = 1
            # B is symmetric for bits; for choices, B = diag(√p) (I − √p √pᵀ), so Bᵀ = (I − √p √pᵀ) diag(√p)
            if family == "bernoulli":
                product = policy.fisher_root_product(policy.fisher_root_product(tuple(unit)))
            else:
                roots = [z.softmax(-1).sqrt() for z in policy.coordinates]
                scaled = [r * u for r, u in zip(roots, unit, strict=True)]
                turned = [s - r * (r * s).sum(-1, keepdim=True) for r, s in zip(roots, scaled, strict=True)]
                product = policy.fisher_root_product(tuple(turned))
            for found, expected in zip(product, policy.fisher_product(tuple(unit)), strict=True):
                equal(found, expected)


@every_family
@pytest.mark.parametrize("value", [1e30, -1e30, math.nan])
def test_excluded_logits_contribute_nothing(family: str, value: float) -> None:
    """Any value of them gives the same bits everywhere, and derivatives by them are exactly 0."""
    masks, seeds = masks_of(family), (0, 1)
    excluded = ~masks
    if family == "bernoulli":  # the logit of a bit matters unless one of its values is excluded
        excluded = excluded.unflatten(-1, (-1, 2)).any(-1)
    plain = [outputs(family, seed) for seed in seeds]
    changed = [torch.where(excluded, value, z) for z in plain]
    actions = make(family, plain[0]).masked(masks).sample(oracles.generator(0))
    results = []
    for pair in (plain, changed):
        leaves = [z.clone().requires_grad_() for z in pair]
        old, new = (make(family, z).masked(masks) for z in leaves)
        values = [old.log_prob(actions), old.entropy(), old.kl(new)]
        gradients = torch.autograd.grad(sum(v.sum() for v in values), leaves)
        assert all(not g[excluded].any() for g in gradients)
        ones = tuple(torch.ones_like(z) for z in old.coordinates)
        results.append([*values, *gradients, *old.fisher_product(ones), *old.fisher_root_product(ones)])
    for found, expected in zip(*results, strict=True):
        assert torch.isfinite(found).all() and torch.equal(found, expected)


@every_family
def test_a_single_allowed_outcome_carries_no_information(family: str) -> None:
    """Its log-probability, the entropy, KL, metric and all derivatives are exactly 0."""
    masks = masks_of(family)[1:2]
    leaves = [outputs(family, seed)[1:2].requires_grad_() for seed in (0, 1)]
    old, new = (make(family, z).masked(masks) for z in leaves)
    action = old.sample(oracles.generator(0))
    assert torch.equal(action, outcomes(family, masks[0]).reshape(action.shape).to(action.dtype))
    values = [old.log_prob(action), old.entropy(), old.kl(new)]
    assert not any(v.any() for v in values)
    assert not any(g.any() for g in torch.autograd.grad(sum(values), leaves))
    ones = tuple(torch.ones_like(z) for z in old.coordinates)
    for product in (*old.fisher_product(ones), *old.fisher_root_product(ones)):
        assert not product.any()


@every_family
def test_samples_are_allowed(family: str) -> None:
    """No excluded outcome is drawn, and every allowed one is."""
    masks, draws = masks_of(family), 500
    logits = outputs(family) / 4
    policy = make(family, logits.expand(draws, -1, -1)).masked(masks.expand(draws, -1, -1))
    drawn = policy.sample(oracles.generator(0))
    for i in range(N):
        found = {tuple(row.reshape(-1).tolist()) for row in drawn[:, i]}
        rows = outcomes(family, masks[i])
        assert found <= {tuple(row.reshape(-1).tolist()) for row in rows}
        assert len(found) == len(rows) or len(rows) > 8


@every_family
def test_masks_that_allow_everything_change_nothing(family: str) -> None:
    """The same bits as without masks."""
    plain = make(family, outputs(family))
    masked = plain.masked(torch.ones(N, WIDTH[family], dtype=torch.bool))
    assert all(map(torch.equal, plain.coordinates, masked.coordinates))


@every_family
def test_without_an_allowed_outcome_everything_is_nan(family: str) -> None:
    """Not a number, rather than an arbitrary action."""
    masks = torch.ones(N, WIDTH[family], dtype=torch.bool)
    masks[2, choices(family)[-1]] = False
    entropy = make(family, outputs(family)).masked(masks).entropy()
    assert entropy.isnan().tolist() == [i == 2 for i in range(N)]


@every_family
def test_wrong_masks_are_rejected(family: str) -> None:
    """Another shape would broadcast, and another dtype may hold log-probabilities."""
    policy = make(family, outputs(family))
    masks = torch.ones(N, WIDTH[family], dtype=torch.bool)
    for wrong in (masks[:1], masks[:, :-1], masks.unsqueeze(0), masks[0], masks.float()):
        with pytest.raises(ValueError, match=rf"masks must be .* \({N}, {WIDTH[family]}\)"):
            policy.masked(wrong)
    for other in (DiagGaussian(torch.zeros(2, 3), torch.zeros(3)), Beta(torch.ones(2, 1), torch.ones(2, 1))):
        with pytest.raises(TypeError, match=rf"{type(other).__name__} has no single outcomes"):
            other.masked(torch.ones(2, 3, dtype=torch.bool))


@every_family
@pytest.mark.parametrize("samples", [None, pytest.param(4000, marks=pytest.mark.slow)])
def test_kfac_is_exact_if_all_states_have_the_same_observation(family: str, samples: int | None) -> None:
    """Then inputs and gradients are independent, though every state has another mask."""
    observation = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    actor, inputs = Actor(family), (observation.expand(N, 2), masks_of(family))
    dense = enumerated_matrix(actor, inputs)
    fisher = KroneckerFisher(actor, inputs, samples=samples, generator=oracles.generator(0))
    tolerance = 1e-10 if samples is None else 0.1 * float(dense.abs().max())
    torch.testing.assert_close(fisher.to_dense(), dense, rtol=0, atol=tolerance)


@every_family
def test_kfacs_factors_are_those_of_enumeration(family: str) -> None:
    """A = E[ā āᵀ], and G = E[g gᵀ] over the allowed outcomes, with g the gradient of log π by the outputs."""
    actor, inputs = Actor(family), (oracles.randn(5, N, 2), masks_of(family))
    A, G = KroneckerFisher(actor, inputs).averages["layer"]
    columns = torch.cat([inputs[0], torch.ones(N, 1, dtype=torch.float64)], 1)
    equal(A, columns.T @ columns / N)
    total = torch.zeros_like(G)
    for observation, mask in zip(*inputs, strict=True):
        row = actor.layer(observation).detach().requires_grad_()
        for probability in enumerated(family, row, mask):
            (g,) = torch.autograd.grad(probability.log(), row, retain_graph=True)
            total += probability.detach() * torch.outer(g, g) / N
    equal(G, total)


@every_family
def test_a_trust_region_step_with_masks(family: str) -> None:
    """It raises the objective within the trust region; the gradient of forced states is exactly 0."""
    actor, observations = Actor(family), oracles.randn(5, N, 2)
    masks = masks_of(family)
    actions = actor((observations, masks)).sample(oracles.generator(1))
    advantages = oracles.randn(2, N)

    def objective(masks: Tensor, actions: Tensor) -> SurrogateObjective:
        return SurrogateObjective(actor, (observations, masks), actions, advantages)

    fisher = ExactFisher(actor, (observations, masks))
    step = trust_region_step(
        objective(masks, actions),
        fisher,
        solver=lambda operator, b: conjugate_gradient(operator, b, max_iterations=30, tolerance=1e-10),
        target_kl=0.01,
        damping=1e-3,
    )
    assert step.accepted and 0 < step.kl <= 0.01
    assert Damped(fisher, 1e-3).shape == fisher.shape
    forced = masks[1:2].expand(N, -1)
    one = outcomes(family, masks[1]).reshape(1, *actions.shape[1:]).expand_as(actions)
    assert not objective(forced, one).gradient().any()
