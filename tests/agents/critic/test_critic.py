"""The value-function fit."""

import math
from typing import Any

import pytest
import torch
from episodes import Episodes
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from agents import NPG, TRPO, VPG
from agents.critic import LbfgsCritic, MinibatchCritic
from agents.policy.actor import PolicyActor
from agents.rollout.batch import Batch
from agents.rollout.threads import threads


def make(returns: torch.Tensor) -> tuple[ActorCriticPolicy, PolicyActor, Batch]:
    """Return a policy with a batch to fit."""
    torch.manual_seed(0)
    box = spaces.Box(-1, 1, (2,))
    policy = ActorCriticPolicy(box, box, lambda _: 3e-3)
    observations = torch.stack([returns, -returns], 1).nan_to_num()
    return policy, PolicyActor(policy), Batch(observations, observations, *4 * [returns])


def fit_minibatches(
    policy: ActorCriticPolicy, parameters: list[Any], batch: Batch, *, passes: int, batch_size: int
) -> float:
    """Fit by minibatches and return the loss."""
    return MinibatchCritic(policy, parameters, passes=passes, batch_size=batch_size).fit(batch).loss


def fit_lbfgs(policy: ActorCriticPolicy, parameters: list[Any], batch: Batch, *, passes: int) -> float:
    """Fit by L-BFGS and return the loss."""
    return LbfgsCritic(policy, parameters, passes=passes).fit(batch).loss


def test_fit_moves_the_critic_only(parameters) -> None:
    """The actor is bitwise unchanged, and the value error falls."""
    policy, actor, batch = make(torch.linspace(-1, 1, 64))
    before = parameters(actor)
    first = fit_minibatches(policy, actor.critic_parameters(), batch, passes=1, batch_size=16)
    last = fit_minibatches(policy, actor.critic_parameters(), batch, passes=50, batch_size=16)
    assert torch.equal(parameters(actor), before)
    assert last < 0.7 * first


def test_stale_actor_gradients_are_not_taken_for_the_critics(parameters) -> None:
    """A gradient somebody left on the actor does not move it."""
    policy, actor, batch = make(torch.ones(8))
    for parameter in actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = parameters(actor)
    fit_minibatches(policy, actor.critic_parameters(), batch, passes=1, batch_size=8)
    assert torch.equal(parameters(actor), before)


def test_bad_minibatch_moves_nothing(parameters) -> None:
    """NaN is never written; the other minibatches still count."""
    policy, actor, batch = make(torch.full((8,), float("nan")))
    before = parameters(policy)
    assert math.isnan(fit_minibatches(policy, actor.critic_parameters(), batch, passes=2, batch_size=4))
    assert torch.equal(parameters(policy), before)


def test_nothing_to_fit() -> None:
    """No epoch, or no critic, is no error; there is no loss then."""
    policy, actor, batch = make(torch.ones(8))
    assert math.isnan(fit_minibatches(policy, actor.critic_parameters(), batch, passes=0, batch_size=4))
    assert math.isnan(fit_minibatches(policy, [], batch, passes=1, batch_size=4))


def error(policy: ActorCriticPolicy, batch: Batch) -> float:
    """Return the mean squared error of the values."""
    with torch.no_grad():
        return float((policy.predict_values(batch.observations).flatten() - batch.returns).square().mean())


def linear(unit: float = 1.0) -> tuple[ActorCriticPolicy, PolicyActor, Batch, torch.Tensor]:
    """Return a critic linear in three features, a batch of noisy returns, and the features with a 1."""
    torch.manual_seed(0)
    box = spaces.Box(-1, 1, (3,))
    policy = ActorCriticPolicy(box, box, lambda _: 3e-3, net_arch=[])
    observations = torch.randn(64, 3)
    returns = unit * (observations @ torch.tensor([1.0, -2.0, 0.5]) + 3 + 0.1 * torch.randn(64))
    batch = Batch(observations, observations, *4 * [returns])
    return policy, PolicyActor(policy), batch, torch.cat([observations, torch.ones(64, 1)], 1)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_lbfgs_finds_the_least_squares_fit(unit: float) -> None:
    """Of a linear critic the optimum is known; it is reached whatever the unit of the returns."""
    policy, actor, batch, features = linear(unit)
    best = torch.linalg.lstsq(features, batch.returns[:, None]).solution.flatten()
    fit_lbfgs(policy, actor.critic_parameters(), batch, passes=20)
    found = torch.cat([policy.value_net.weight.detach().flatten(), policy.value_net.bias.detach()])
    torch.testing.assert_close(found / unit, best / unit, rtol=1e-3, atol=1e-3)


def test_lbfgs_never_raises_the_error_and_moves_the_critic_only(parameters) -> None:
    """Every further iteration lowers the error; what it returns is the error before."""
    errors = []
    for iterations in (1, 2, 4, 8):
        policy, actor, batch = make(torch.linspace(-1, 1, 64).exp())
        before, start = parameters(actor), error(policy, batch)
        assert LbfgsCritic(policy, actor.critic_parameters(), passes=iterations).fit(
            batch
        ).loss == pytest.approx(start)
        assert torch.equal(parameters(actor), before)
        assert all(parameter.grad is None for parameter in policy.parameters())
        errors.append(error(policy, batch))
    assert start > errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_lbfgs_on_bad_returns_moves_nothing(parameters, bad: float) -> None:
    """NaN is never written."""
    policy, actor, batch = make(torch.tensor([1.0, bad, 2.0]))
    before = parameters(policy)
    assert not math.isfinite(fit_lbfgs(policy, actor.critic_parameters(), batch, passes=5))
    assert torch.equal(parameters(policy), before)


def test_lbfgs_with_nothing_to_do(parameters) -> None:
    """A perfect critic stays, bitwise; no iteration, or no critic, is no error."""
    policy, actor, batch = make(torch.zeros(8))
    with torch.no_grad():
        policy.value_net.weight.zero_()
        policy.value_net.bias.zero_()
    before = parameters(policy)
    assert fit_lbfgs(policy, actor.critic_parameters(), batch, passes=5) == 0
    assert torch.equal(parameters(policy), before)
    assert math.isnan(fit_lbfgs(policy, actor.critic_parameters(), batch, passes=0))
    assert math.isnan(fit_lbfgs(policy, [], batch, passes=5))


@pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO])
@pytest.mark.parametrize("normalize", [False, True])
def test_side_by_side_changes_nothing_but_the_time(
    monkeypatch: pytest.MonkeyPatch, parameters, agent_class: Any, normalize: bool
) -> None:
    """Critic and policy step in two threads, to bitwise the same parameters as one after the other."""
    results = []
    for alongside in (True, False):
        agent = agent_class(
            "MlpPolicy",
            "CartPole-v1",
            n_steps=64,
            seed=0,
            device="cpu",
            critic_fit="lbfgs",
            policy_kwargs={"normalize_observations": normalize, "normalize_returns": normalize},
        )
        assert agent._fits_in_parallel(agent.make_critic())
        monkeypatch.setattr(agent_class, "_fits_in_parallel", lambda *_, alongside=alongside: alongside)
        agent.learn(3 * 64)
        monkeypatch.undo()
        results.append(parameters(agent.policy))
    assert torch.equal(*results)


def test_a_critic_on_shared_features_waits_for_the_step() -> None:
    """It reads what the step moves, so that side by side it would read a mixture."""
    agent = TRPO(
        "MlpPolicy",
        Episodes([1.0, 2.0]),
        n_steps=8,
        batch_size=8,
        critic_fit="lbfgs",
        policy_kwargs={"share_features_extractor": True, "features_extractor_class": Trainable},
    )
    assert agent.actor.shares_parameters
    assert not agent._fits_in_parallel(agent.make_critic())


class Trainable(FlattenExtractor):
    """Features with a parameter."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return scaled observations."""
        return self.scale * super().forward(observations)


def test_an_error_in_the_critic_reaches_the_user() -> None:
    """What the other thread raises is raised, and torch has its threads back."""
    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu", critic_fit="lbfgs")

    def broken(observations: Any) -> Any:
        raise RuntimeError("no values today")

    agent.collect_rollouts = lambda *args: True  # type: ignore[method-assign]
    agent._setup_learn(16)
    agent.rollout_buffer.full = True
    agent.policy.predict_values = broken
    with threads(4), pytest.raises(RuntimeError, match="no values today"):
        try:
            agent.train()
        finally:
            assert torch.get_num_threads() == 4
