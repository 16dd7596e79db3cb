"""Every reason to reject a step is reachable, and a rejected step changes nothing."""

import math
from functools import partial
from pathlib import Path

import oracles
import pytest
import torch
from oracles import Dense, RandomActor
from torch import Tensor, nn

from npg import (
    Categorical,
    DiagGaussian,
    ExactFisher,
    FlatParameters,
    LinearOperator,
    PolicyStep,
    Rejection,
    Status,
    SurrogateObjective,
    conjugate_gradient,
    natural_step,
    trust_region_step,
)

BOTH = (natural_step, trust_region_step)


def assert_nothing_moves(step: PolicyStep, actor: nn.Module, before: Tensor) -> None:
    """Assert that a rejected step is zero in every number and changes no bit of the parameters."""
    assert not step.accepted
    assert step.rejection in Rejection
    assert step.displacement.shape == before.shape
    assert not step.displacement.any()
    assert (step.kl, step.gain, step.predicted_gain, step.cosine) == (0, 0, 0, 0)
    FlatParameters(actor).add_(step.displacement)
    assert torch.equal(oracles.flat_parameters(actor), before)


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


def rejected(
    objective: SurrogateObjective, fisher: LinearOperator, *rules: object, **options: object
) -> Rejection:
    """Return why the rules (both by default) reject, having checked that nothing moves."""
    actor = objective._actor
    before = oracles.flat_parameters(actor)
    reasons = set()
    for rule in rules or BOTH:
        step = rule(objective, fisher, **options)
        assert_nothing_moves(step, actor, before)
        reasons.add(step.rejection)
    (reason,) = reasons
    return reason


def gaussian() -> SurrogateObjective:
    """Return an objective over 28 parameters."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    actions = actor(observations).sample(oracles.generator(0))
    return SurrogateObjective(actor, observations, actions, oracles.randn(1, 5))


def test_zero_advantages_are_no_improvement() -> None:
    """A zero gradient leads nowhere, and nothing is solved for it."""
    fisher = Dense(torch.eye(2).double())
    objective, _ = bandit(Bandit(), [[0.3], [0.1]], [0.0, 0.0])
    assert rejected(objective, fisher) is Rejection.NO_IMPROVEMENT
    assert fisher.products == 0


def test_an_overshooting_search_is_no_improvement() -> None:
    """With δ = 10 every candidate overshoots the one good action: the KL is within δ, the surrogate falls."""
    actor = Bandit()
    actor.log_std.requires_grad_(False)
    objective, fisher = bandit(actor, [[0.1]], [1.0])
    options = {"target_kl": 10.0, "damping": 0.0, "max_iterations": 3}
    assert rejected(objective, fisher, trust_region_step, **options) is Rejection.NO_IMPROVEMENT
    assert trust_region_step(objective, fisher, **options).backtracks == 2
    assert natural_step(objective, fisher, target_kl=10.0, damping=0.0).gain < 0


def test_a_curved_kl_is_above_the_target() -> None:
    """Shrinking σ costs log² + ⅔ log³ + ..., more than the quadratic model: one candidate is not enough."""
    actor = Bandit()
    actor.mean.requires_grad_(False)
    objective, fisher = bandit(actor, [[0.0]], [1.0])
    reason = rejected(objective, fisher, trust_region_step, max_iterations=1, damping=0.0)
    assert reason is Rejection.KL_ABOVE_TARGET
    step = trust_region_step(objective, fisher, max_iterations=2, damping=0.0)
    assert (step.accepted, step.backtracks) == (True, 1)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_negative_curvature_is_rejected(damping: float) -> None:
    """A matrix that no damping makes definite is rejected after the second attempt, with that λ reported."""
    objective = gaussian()
    fisher = Dense(-10 * torch.eye(objective.parameters.size).double())
    assert rejected(objective, fisher, damping=damping) is Rejection.NEGATIVE_CURVATURE
    step = trust_region_step(objective, fisher, damping=damping)
    assert step.damping == (1.0 if damping else 1e-3)
    assert step.solution.status is Status.NEGATIVE_CURVATURE


def test_a_matrix_without_curvature_along_g_is_rejected() -> None:
    """F = 0 bounds nothing: there is no length at which its model of the KL is δ."""
    objective = gaussian()
    zero = Dense(torch.zeros(objective.parameters.size, objective.parameters.size).double())
    assert rejected(objective, zero) is Rejection.NEGATIVE_CURVATURE


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_numbers_are_named(bad: float) -> None:
    """A non-finite advantage is reported as the gradient, a non-finite product as the Fisher matrix."""
    objective, fisher = bandit(Bandit(), [[0.3], [0.1]], [1.0, bad])
    assert rejected(objective, fisher) is Rejection.NON_FINITE_GRADIENT
    objective, _ = bandit(Bandit(), [[0.3], [0.1]], [1.0, 2.0])
    spoiled = Dense(torch.full((2, 2), bad, dtype=torch.float64))
    assert rejected(objective, spoiled) is Rejection.NON_FINITE_FISHER
    in_solver = partial(conjugate_gradient, preconditioner=spoiled)
    assert rejected(objective, fisher, solver=in_solver) is Rejection.NON_FINITE_FISHER


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
    assert rejected(objective, fisher) is reason


def test_every_reason_has_its_test() -> None:
    """A reason added to Rejection must be added to this file, to ACKTR's, or to that of constrained steps."""
    here = Path(__file__)
    files = here, here.parents[1] / "agents" / "test_acktr.py", here.with_name("test_constrained_step.py")
    source = "".join(path.read_text() for path in files)
    assert all(f"Rejection.{reason.name}" in source for reason in Rejection)


def test_the_numbers_to_log_are_finite_floats() -> None:
    """An accepted step logs the account of the step and of the solver; a rejected one what it has."""
    objective, fisher = bandit(Bandit(), [[0.3], [-0.1]], [1.0, -1.0])
    for rule in BOTH:
        step = rule(objective, fisher, damping=0.2)
        scalars, g, d = step.scalars(), objective.gradient(), step.displacement
        assert all(type(value) is float and math.isfinite(value) for value in scalars.values())
        assert scalars["kl"] == step.kl > 0
        assert scalars["gain_ratio"] == step.gain / step.predicted_gain
        assert scalars["step_length"] == pytest.approx(math.dist(step.displacement.tolist(), (0, 0)))
        assert scalars["cosine"] == pytest.approx(float(g @ d / (g.norm() * d.norm())))
        assert (scalars["damping"], scalars["cg_iterations"]) == (0.2, step.solution.iterations)
        assert step.surrogate == pytest.approx(step.gain)  # the advantages have mean zero
    objective, fisher = bandit(Bandit(), [[0.3]], [0.0])
    assert set(trust_region_step(objective, fisher).scalars().values()) == {0.0}


def test_a_rejected_step_reports_the_surrogate_where_it_stays() -> None:
    """The numbers of a rejected step are those of the parameters as they are."""
    actor = Bandit()
    actor.log_std.requires_grad_(False)
    objective, fisher = bandit(actor, [[0.1]], [3.0])
    step = trust_region_step(objective, fisher, target_kl=10.0, damping=0.0, max_iterations=3)
    assert (step.accepted, step.surrogate) == (False, 3.0)


@pytest.mark.parametrize("reason", [*Rejection, *Status])
def test_every_reason_says_what_to_do(reason: Rejection | Status) -> None:
    """Each reason has a short sentence of advice."""
    assert len(reason.advice.split()) >= 3
