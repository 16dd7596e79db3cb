"""The promise: accepted means KL ≤ δ and a gain, rejected means that nothing moved and why."""

import math
from collections import Counter
from copy import deepcopy
from functools import partial

import oracles
import pytest
import torch
from oracles import FAMILIES, Dense, RandomActor
from torch import Tensor, nn

from npg import (
    Categorical,
    Damped,
    DiagGaussian,
    ExactFisher,
    FlatParameters,
    KLHessian,
    LinearOperator,
    PolicyStep,
    Rejection,
    Status,
    SurrogateObjective,
    conjugate_gradient,
    natural_direction,
    natural_step,
    trust_region_step,
)

BOTH = (natural_step, trust_region_step)


def problem(
    actor: nn.Module, seed: int = 0, n: int = 16, scale: float = 1.0
) -> tuple[SurrogateObjective, LinearOperator, tuple[Tensor, Tensor, Tensor]]:
    """Return objective, Fisher matrix and batch of random advantages on sampled actions."""
    observations = oracles.observations(seed, n)
    actions = actor(observations).sample(oracles.generator(seed))
    batch = observations, actions, scale * oracles.randn(seed + 1, n)
    return SurrogateObjective(actor, *batch), ExactFisher(actor, observations), batch


def assert_nothing_moves(step: PolicyStep, actor: nn.Module, before: Tensor) -> None:
    """Assert that a rejected step is zero in every number and changes no bit of the parameters."""
    assert not step.accepted
    assert step.rejection in Rejection
    assert step.displacement.shape == before.shape
    assert not step.displacement.any()
    assert (step.kl, step.gain, step.predicted_gain, step.cosine) == (0, 0, 0, 0)
    FlatParameters(actor).add_(step.displacement)
    assert torch.equal(oracles.flat_parameters(actor), before)


def check_promise(step: PolicyStep, actor: nn.Module, batch: tuple[Tensor, ...], target_kl: float) -> None:
    """Recompute KL and gain on a deep copy that really takes the step, with torch.distributions."""
    observations, actions, advantages = batch
    new = deepcopy(actor)
    FlatParameters(new).add_(step.displacement)
    with torch.no_grad():
        p, q = actor(observations), new(observations)
        kl = oracles.kl(p, q).mean().item()
        ratio = (oracles.log_prob(q, actions) - oracles.log_prob(p, actions)).exp()
        gain = ((ratio - 1) * advantages).mean().item()
    assert kl <= target_kl * (1 + 1e-9)
    assert gain > 0
    assert step.kl == pytest.approx(kl, rel=1e-8)
    assert step.gain == pytest.approx(gain, rel=1e-8)
    assert step.predicted_gain > 0
    assert 0 < step.cosine <= 1 + 1e-12
    assert all(math.isfinite(value) and type(value) is float for value in step.scalars().values())


def test_a_thousand_random_problems() -> None:
    """Whatever the family, the advantages' scale, δ and λ: accepted ⇒ KL ≤ δ and gain > 0, else nothing."""
    source, outcomes = oracles.generator(0), Counter()
    for seed in range(1000):
        u = torch.rand(5, generator=source, dtype=torch.float64).tolist()
        actor = RandomActor(FAMILIES[seed % len(FAMILIES)], seed)
        objective, fisher, batch = problem(actor, seed, n=2 + int(30 * u[0]), scale=10 ** (6 * u[1] - 3))
        before, target_kl = oracles.flat_parameters(actor), 10 ** (5 * u[2] - 4)
        step = trust_region_step(
            objective,
            fisher,
            target_kl=target_kl,
            damping=10 ** (6 * u[3] - 5),
            max_iterations=1 + int(10 * u[4]),
        )
        assert torch.equal(oracles.flat_parameters(actor), before)
        outcomes[step.rejection] += 1
        if step.accepted:
            check_promise(step, actor, batch, target_kl)
        else:
            assert_nothing_moves(step, actor, before)
    assert outcomes[None] > 700
    assert outcomes[Rejection.KL_ABOVE_TARGET] > 10
    assert outcomes[Rejection.NO_IMPROVEMENT] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_search_stops_at_the_first_step_that_holds(family: str) -> None:
    """The displacement is shrinkᵏ of the full step, and the candidate before it broke the promise."""
    objective, fisher, _ = problem(RandomActor(family, 3), 3, n=32)
    options = {"target_kl": 0.5, "damping": 0.1, "solver": partial(conjugate_gradient, max_iterations=50)}
    full = natural_step(objective, fisher, **options).displacement
    step = trust_region_step(objective, fisher, shrink=0.9, max_iterations=40, **options)
    assert step.accepted
    torch.testing.assert_close(step.displacement, 0.9**step.backtracks * full)
    for k in range(step.backtracks):
        earlier = objective.evaluate(0.9**k * full)
        assert earlier.kl > 0.5 or earlier.gain <= 0


class Bandit(nn.Module):
    """One action N(mean, e^{2 log_std}) without a state."""

    def __init__(self, mean: float = 0.0):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.log_std = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, observations: Tensor) -> DiagGaussian:
        """Return one distribution for every row."""
        return DiagGaussian(self.mean.expand(len(observations), 1), self.log_std)


class Brittle(nn.Module):
    """A policy over three choices that changes into something else as soon as it is moved."""

    def __init__(self, moved: tuple[float, ...]):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.moved = torch.tensor(moved, dtype=torch.float64)

    def forward(self, observations: Tensor) -> Categorical:
        """Return the policy, plus `moved` if a parameter is not where it began."""
        extra = self.moved if self.logits.detach().any() else 0 * self.moved.nan_to_num()
        return Categorical((self.logits + extra).expand(len(observations), 3))


def bandit(
    actor: nn.Module, actions: list, advantages: list[float]
) -> tuple[SurrogateObjective, LinearOperator]:
    """Return the objective and Fisher matrix of a problem without states."""
    empty = torch.zeros(len(actions), 0, dtype=torch.float64)
    objective = SurrogateObjective(actor, empty, torch.tensor(actions), torch.tensor(advantages).double())
    return objective, ExactFisher(actor, empty)


def refused(objective: SurrogateObjective, fisher: LinearOperator, *rules: object, **options: object) -> Rejection:
    """Return why the rules (both by default) refuse, having checked that nothing moves."""
    actor = objective._actor
    before = oracles.flat_parameters(actor)
    reasons = set()
    for rule in rules or BOTH:
        step = rule(objective, fisher, **options)
        assert_nothing_moves(step, actor, before)
        reasons.add(step.rejection)
    (reason,) = reasons
    return reason


def test_zero_advantages_are_no_improvement() -> None:
    """A zero gradient leads nowhere, and nothing is solved for it."""
    fisher = Dense(torch.eye(2).double())
    objective, _ = bandit(Bandit(), [[0.3], [0.1]], [0.0, 0.0])
    assert refused(objective, fisher) is Rejection.NO_IMPROVEMENT
    assert fisher.products == 0


def test_an_overshooting_search_is_no_improvement() -> None:
    """With δ = 10 every candidate flies past the one good action: KL holds, the surrogate falls."""
    actor = Bandit()
    actor.log_std.requires_grad_(False)
    objective, fisher = bandit(actor, [[0.1]], [1.0])
    options = {"target_kl": 10.0, "damping": 0.0, "max_iterations": 3}
    assert refused(objective, fisher, trust_region_step, **options) is Rejection.NO_IMPROVEMENT
    assert trust_region_step(objective, fisher, **options).backtracks == 2
    assert natural_step(objective, fisher, target_kl=10.0, damping=0.0).gain < 0


def test_a_curved_kl_is_above_the_target() -> None:
    """Shrinking σ costs log² + ⅔ log³ + ..., more than the quadratic model: one candidate is not enough."""
    actor = Bandit()
    actor.mean.requires_grad_(False)
    objective, fisher = bandit(actor, [[0.0]], [1.0])
    reason = refused(objective, fisher, trust_region_step, max_iterations=1, damping=0.0)
    assert reason is Rejection.KL_ABOVE_TARGET
    step = trust_region_step(objective, fisher, max_iterations=2, damping=0.0)
    assert (step.accepted, step.backtracks) == (True, 1)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_negative_curvature_is_refused(damping: float) -> None:
    """A matrix that no raised damping mends is refused after the second attempt, with that λ reported."""
    objective, *_ = problem(RandomActor("gaussian"))
    fisher = Dense(-10 * torch.eye(objective.parameters.size).double())
    assert refused(objective, fisher, damping=damping) is Rejection.NEGATIVE_CURVATURE
    step = trust_region_step(objective, fisher, damping=damping)
    assert step.damping == (1.0 if damping else 1e-3)
    assert step.solution.status is Status.NEGATIVE_CURVATURE


def test_a_raised_damping_mends_mild_indefiniteness() -> None:
    """One slightly negative eigenvalue costs one more solve, with ten times the damping."""
    eigenvalues = torch.ones(20, dtype=torch.float64)
    eigenvalues[-1] = -0.5
    fisher, gradient = Dense(torch.diag(eigenvalues)), torch.ones(20, dtype=torch.float64)
    direction = natural_direction(fisher, gradient, damping=0.1)
    assert (direction.rejection, direction.damping) == (None, 1.0)
    torch.testing.assert_close(direction.x, 1 / (eigenvalues + 1))
    torch.testing.assert_close(direction.curvature, float(direction.x @ (eigenvalues * direction.x)))
    assert natural_direction(Damped(fisher, 1.0), gradient, damping=0.1).damping == 0.1
    objective, *_ = problem(RandomActor("gaussian"))
    eigenvalues = torch.ones(objective.parameters.size, dtype=torch.float64)
    eigenvalues[-1] = -0.5
    step = trust_region_step(objective, Dense(torch.diag(eigenvalues)), damping=0.1, target_kl=1e-3)
    assert (step.accepted, step.damping) == (True, 1.0)
    assert step.scalars()["damping"] == 1.0


def test_a_matrix_without_curvature_along_g_is_refused() -> None:
    """F = 0 bounds nothing: there is no length at which its model of the KL is δ."""
    objective, *_ = problem(RandomActor("gaussian"))
    zero = Dense(torch.zeros(objective.parameters.size, objective.parameters.size).double())
    assert refused(objective, zero) is Rejection.NEGATIVE_CURVATURE


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_numbers_are_named(bad: float) -> None:
    """A bad advantage spoils the gradient, a bad product the Fisher matrix; each says so."""
    objective, fisher = bandit(Bandit(), [[0.3], [0.1]], [1.0, bad])
    assert refused(objective, fisher) is Rejection.NON_FINITE_GRADIENT
    objective, _ = bandit(Bandit(), [[0.3], [0.1]], [1.0, 2.0])
    spoiled = Dense(torch.full((2, 2), bad, dtype=torch.float64))
    assert refused(objective, spoiled) is Rejection.NON_FINITE_FISHER


@pytest.mark.parametrize(
    ("moved", "reason"),
    [
        ((math.nan, 0.0, 0.0), Rejection.NON_FINITE_SURROGATE),
        ((0.0, 0.0, -math.inf), Rejection.NON_FINITE_KL),  # the forbidden choice was not sampled
    ],
)
def test_non_finite_candidates_are_named(moved: tuple[float, ...], reason: Rejection) -> None:
    """A candidate whose surrogate or KL is not finite is never taken, by either rule."""
    objective, fisher = bandit(Brittle(moved), [0, 1], [1.0, -1.0])
    assert refused(objective, fisher) is reason


def test_either_operator_gives_the_same_step() -> None:
    """ExactFisher and KLHessian lead to the same displacement."""
    actor = RandomActor("multi_categorical")
    objective, fisher, (observations, *_) = problem(actor)
    step = trust_region_step(objective, fisher)
    other = trust_region_step(objective, KLHessian(actor, observations))
    torch.testing.assert_close(step.displacement, other.displacement, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"target_kl": 0.0}, "target_kl"),
        ({"target_kl": -0.01}, "target_kl"),
        ({"target_kl": math.nan}, "target_kl"),
        ({"target_kl": math.inf}, "target_kl"),
        ({"damping": -0.1}, "damping"),
        ({"damping": math.nan}, "damping"),
        ({"shrink": 1.0}, "shrink"),
        ({"shrink": 0.0}, "shrink"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], name: str) -> None:
    """The error names the option."""
    objective, fisher, _ = problem(RandomActor("gaussian"))
    with pytest.raises(ValueError, match=name):
        trust_region_step(objective, fisher, **options)
