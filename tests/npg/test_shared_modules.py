"""Actors that use a module under two names, or a parameter in two modules: neither changed nor seen half."""

from collections.abc import Callable

import oracles
import pytest
import torch
from operators import EVERY
from torch import Tensor, nn

from npg import (
    Categorical,
    ExactFisher,
    FlatParameters,
    KroneckerFisher,
    SurrogateObjective,
    trust_region_step,
)

# K-FAC has no factors for a layer that runs twice.
NAMES = sorted(set(EVERY) - {"kronecker", "corrected"})
N = 6


class Twice(nn.Module):
    """One layer under two names, (N, 4) -> three choices: 35 parameters."""

    size = 35

    def __init__(self) -> None:
        super().__init__()
        body = nn.Linear(4, 4)
        self.net = nn.Sequential(body, nn.Tanh(), body, nn.Tanh(), nn.Linear(4, 3)).double()
        oracles.draw_weights_(self, 0)

    def forward(self, observations: Tensor) -> Categorical:
        """Return the policy."""
        return Categorical(self.net(observations))


class Tied(Twice):
    """Two layers that share a weight, one of them also under a second name: 39 parameters."""

    size = 39

    def __init__(self) -> None:
        super().__init__()
        second = nn.Linear(4, 4).double()
        second.weight = self.net[0].weight
        self.net[2] = second
        self.weight = second.weight
        oracles.draw_weights_(self, 0)


every_actor = pytest.mark.parametrize("make", [Twice, Tied])


def problem(make: Callable[[], Twice]) -> tuple[Twice, Tensor]:
    """An actor and observations."""
    return make(), oracles.randn(3, N, 4)


def tensors(actor: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Return every parameter under each of its names: the object and its values."""
    named = actor.named_parameters(remove_duplicate=False)
    return {name: (id(p), p.detach().clone()) for name, p in named}


def assert_untouched(actor: Twice, before: dict[str, tuple[int, Tensor]]) -> None:
    """Assert that every name still has the same Parameter with the same bits."""
    after = tensors(actor)
    assert before.keys() == after.keys()
    assert all(before[name][0] == after[name][0] for name in before)
    assert all(torch.equal(before[name][1], after[name][1]) for name in before)
    assert FlatParameters(actor).size == actor.size


@every_actor
def test_a_step_leaves_the_actor_as_it_is(make: Callable[[], Twice]) -> None:
    """Until `add_`, which every later update sees whole."""
    actor, observations = problem(make)
    before = tensors(actor)
    for seed in range(2):
        advantages = oracles.randn(seed, N)
        objective = SurrogateObjective(actor, observations, torch.arange(N) % 3, advantages)
        step = trust_region_step(objective, ExactFisher(actor, observations), target_kl=1e-3)
        assert_untouched(actor, before)
        assert step.accepted
        assert step.gain == pytest.approx(step.predicted_gain, rel=0.2)
        objective.parameters.add_(step.displacement)
        assert objective.evaluate(torch.zeros(actor.size).double()).kl == pytest.approx(step.kl)
        before = tensors(actor)


@every_actor
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_operators_leave_the_actor_as_it_is(name: str, size: int | None, make: Callable[[], Twice]) -> None:
    """With micro-batches and without."""
    actor, observations = problem(make)
    before = tensors(actor)
    operator = EVERY[name](actor, observations, micro_batch_size=size)
    operator @ torch.ones(actor.size).double()
    assert_untouched(actor, before)


@every_actor
def test_both_uses_count(make: Callable[[], Twice]) -> None:
    """Every way to the exact matrix agrees with autograd through the live actor."""
    actor, observations = problem(make)
    exact = ExactFisher(actor, observations).to_dense()
    for name in ("exact", "kl", "difference"):
        for size in (None, 2):
            dense = EVERY[name](actor, observations, micro_batch_size=size).to_dense()
            torch.testing.assert_close(dense, exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(EVERY["diagonal"](actor, observations).to_dense().diag(), exact.diag())


@every_actor
def test_kfac_still_rejects_them(make: Callable[[], Twice]) -> None:
    """A layer that runs twice, or a parameter of two modules, has no Kronecker factors."""
    with pytest.raises(ValueError, match=r"ran twice|used by two modules"):
        KroneckerFisher(*problem(make))


@every_actor
def test_the_oracle_sees_every_use_and_changes_nothing(make: Callable[[], Twice]) -> None:
    """The dense reference moves a module under both of its names, and leaves the actor as it was."""
    actor, observations = problem(make)
    before = dict(actor.named_parameters())
    theta = oracles.flat_parameters(actor)
    moved = oracles.as_function(actor, observations)(theta + 0.1)
    assert dict(actor.named_parameters()) == before and isinstance(actor.net[0].weight, nn.Parameter)
    assert torch.equal(oracles.flat_parameters(actor), theta)
    FlatParameters(actor).add_(torch.full_like(theta, 0.1))
    torch.testing.assert_close(moved.logits, actor(observations).logits)
