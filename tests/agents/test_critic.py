"""The value-function fit."""

import math

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.actor import PolicyActor
from agents.batch import Batch
from agents.critic import fit_critic


def make(returns: torch.Tensor) -> tuple[ActorCriticPolicy, PolicyActor, Batch]:
    """Return a policy with a batch to fit."""
    torch.manual_seed(0)
    box = spaces.Box(-1, 1, (2,))
    policy = ActorCriticPolicy(box, box, lambda _: 3e-3)
    observations = torch.stack([returns, -returns], 1).nan_to_num()
    return policy, PolicyActor(policy), Batch(observations, observations, *4 * [returns])


def test_fit_moves_the_critic_only(parameters) -> None:
    """The actor is bitwise unchanged, and the value error falls."""
    policy, actor, batch = make(torch.linspace(-1, 1, 64))
    before = parameters(actor)
    first = fit_critic(policy, actor.critic_parameters(), batch, epochs=1, batch_size=16)
    last = fit_critic(policy, actor.critic_parameters(), batch, epochs=50, batch_size=16)
    assert torch.equal(parameters(actor), before)
    assert last < 0.7 * first


def test_stale_actor_gradients_are_not_taken_for_the_critics(parameters) -> None:
    """A gradient somebody left on the actor does not move it."""
    policy, actor, batch = make(torch.ones(8))
    for parameter in actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = parameters(actor)
    fit_critic(policy, actor.critic_parameters(), batch, epochs=1, batch_size=8)
    assert torch.equal(parameters(actor), before)


def test_bad_minibatch_moves_nothing(parameters) -> None:
    """NaN is never written; the other minibatches still count."""
    policy, actor, batch = make(torch.full((8,), float("nan")))
    before = parameters(policy)
    assert math.isnan(fit_critic(policy, actor.critic_parameters(), batch, epochs=2, batch_size=4))
    assert torch.equal(parameters(policy), before)


def test_nothing_to_fit() -> None:
    """No epoch, or no critic, is no error; there is no loss then."""
    policy, actor, batch = make(torch.ones(8))
    assert math.isnan(fit_critic(policy, actor.critic_parameters(), batch, epochs=0, batch_size=4))
    assert math.isnan(fit_critic(policy, [], batch, epochs=1, batch_size=4))
