"""The promise: accepted means KL ≤ δ and a gain, rejected means that nothing moved."""

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
    Damped,
    ExactFisher,
    FlatParameters,
    KLHessian,
    LinearOperator,
    PolicyStep,
    Rejection,
    SurrogateObjective,
    conjugate_gradient,
    natural_direction,
    natural_step,
    trust_region_step,
)


def problem(
    actor: nn.Module, seed: int = 0, n: int = 16, scale: float = 1.0
) -> tuple[SurrogateObjective, LinearOperator, tuple[Tensor, Tensor, Tensor]]:
    """Return objective, Fisher matrix and batch of random advantages on sampled actions."""
    observations = oracles.observations(seed, n)
    actions = actor(observations).sample(oracles.generator(seed))
    batch = observations, actions, scale * oracles.randn(seed + 1, n)
    return SurrogateObjective(actor, *batch), ExactFisher(actor, observations), batch


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


@pytest.mark.parametrize("problems", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_problems(problems: int) -> None:
    """Whatever the family, the advantages' scale, δ and λ: accepted ⇒ KL ≤ δ and gain > 0, else nothing."""
    source, outcomes = oracles.generator(0), Counter()
    for seed in range(problems):
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
            assert (step.kl, step.gain, step.predicted_gain, step.cosine) == (0, 0, 0, 0)
            FlatParameters(actor).add_(step.displacement)
            assert torch.equal(oracles.flat_parameters(actor), before)
    assert outcomes[None] > 0.7 * problems
    assert outcomes[Rejection.KL_ABOVE_TARGET] > 0.01 * problems
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
    eigenvalues[objective.gradient().abs().argmin()] = -0.5
    step = trust_region_step(objective, Dense(torch.diag(eigenvalues)), damping=0.1, max_iterations=40)
    assert (step.accepted, step.damping) == (True, 1.0)
    assert step.scalars()["damping"] == 1.0


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
def test_options_out_of_range_are_rejected(options: dict[str, float], name: str) -> None:
    """The error names the option."""
    objective, fisher, _ = problem(RandomActor("gaussian"))
    with pytest.raises(ValueError, match=name):
        trust_region_step(objective, fisher, **options)


def test_a_step_without_a_gain_is_rejected() -> None:
    """One so small that no probability changes in float32: neither KL nor gain."""
    actor = RandomActor("categorical", 0).float()
    observations = oracles.observations(0, 16).float()
    objective = SurrogateObjective(
        actor, observations, torch.arange(16) % 3, oracles.randn(1, 16, dtype=torch.float32)
    )
    step = trust_region_step(objective, ExactFisher(actor, observations), target_kl=1e-24)
    assert (step.rejection, step.gain, step.kl) == (Rejection.NO_IMPROVEMENT, 0, 0)
    assert not step.displacement.any()
