"""The critic's fit by K-FAC."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents import ACKTR
from agents.critic.kronecker import KroneckerCritic, ValueDistribution
from agents.policy.actor import PolicyActor
from agents.policy.policies import MlpPolicy
from agents.rollout.batch import Batch
from npg import KroneckerFisher, KroneckerStepper

FULL = {"passes": 1, "batch_size": 64, "step_size": 1.0, "target_kl": 1e6}


def make(
    returns: Tensor, *, layers: list[int], damping: float = 0.1, momentum: float = 0.0
) -> tuple[ActorCriticPolicy, ValueDistribution, KroneckerStepper, Batch]:
    """Return a policy whose critic has these hidden layers, with a batch to fit."""
    torch.manual_seed(0)
    box = spaces.Box(-1, 1, (2,))
    policy = ActorCriticPolicy(box, box, lambda _: 1.0, net_arch={"pi": [8], "vf": layers})
    torch.nn.init.zeros_(policy.value_net.weight)
    observations = torch.randn(len(returns), 2, generator=torch.Generator().manual_seed(1))
    critic = ValueDistribution(policy, PolicyActor(policy).critic_parameters())
    stepper = KroneckerStepper(KroneckerFisher(critic), damping=damping, momentum=momentum)
    values = policy.predict_values(observations).detach().flatten()
    return policy, critic, stepper, Batch(observations, observations, values, values, returns, returns)


def fit(critic: ValueDistribution, stepper: KroneckerStepper, batch: Batch, **options: Any) -> float:
    """Fit by natural steps and return the loss."""
    return KroneckerCritic(critic, stepper, **options).fit(batch).loss


def returns_of(n: int, seed: int = 2) -> Tensor:
    """Return n returns that are no linear function of anything."""
    return 3 + torch.randn(n, generator=torch.Generator().manual_seed(seed)).square()


def test_one_step_of_a_linear_critic_is_least_squares() -> None:
    """Without damping or cap, the Gauss-Newton step of a linear model solves the regression."""
    policy, critic, stepper, batch = make(returns_of(64), layers=[], damping=1e-10)
    fit(critic, stepper, batch, **FULL)
    design = torch.cat([batch.observations, torch.ones(64, 1)], 1)
    expected = design @ torch.linalg.lstsq(design, batch.returns.unsqueeze(1)).solution
    torch.testing.assert_close(policy.predict_values(batch.observations), expected, rtol=1e-3, atol=1e-3)


def test_the_trust_region_is_in_units_of_the_error() -> None:
    """With δ nats, values move by sqrt(2δ) root mean squared errors."""
    policy, critic, stepper, batch = make(returns_of(64), layers=[], damping=1e-10)
    fit(critic, stepper, batch, **FULL | {"target_kl": 0.02})
    moved = policy.predict_values(batch.observations).flatten() - batch.old_values
    error = (batch.returns - batch.old_values).square().mean().sqrt()
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * float(error), rel=1e-3)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_normalised_critic_does_not_see_the_unit_of_the_reward(unit: float) -> None:
    """Under `normalize_returns`, returns in another unit are predicted in that unit, damping and all."""
    predictions = []
    for scale in (1.0, unit):
        torch.manual_seed(0)
        box = spaces.Box(-1, 1, (2,))
        policy = MlpPolicy(box, box, lambda _: 1.0, normalize_returns=True)
        observations = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
        returns = scale * returns_of(64)
        policy.observe_returns(returns)
        values = policy.predict_values(observations).detach().flatten()
        critic = ValueDistribution(policy, PolicyActor(policy).critic_parameters())
        stepper = KroneckerStepper(KroneckerFisher(critic), damping=0.1)
        batch = Batch(observations, observations, values, values, returns, returns)
        fit(critic, stepper, batch, **FULL | {"passes": 20, "target_kl": 0.1})
        predictions.append(policy.predict_values(observations).detach())
    assert float((predictions[0] - predictions[0].mean()).abs().amax()) > 0.05
    torch.testing.assert_close(predictions[1], unit * predictions[0], rtol=1e-3, atol=1e-3 * unit)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_moves_values_by_the_documented_share_of_their_error(
    scale: float, normalize: bool, momentum: float
) -> None:
    """On random linear problems, one after another, at most sqrt(2δ) σ, and never next to nothing."""
    torch.manual_seed(0)
    box = spaces.Box(-1, 1, (2,))
    policy = MlpPolicy(box, box, lambda _: 1.0, net_arch=[], normalize_returns=normalize)
    torch.nn.init.zeros_(policy.value_net.weight)
    critic = ValueDistribution(policy, PolicyActor(policy).critic_parameters())
    stepper = KroneckerStepper(KroneckerFisher(critic), damping=0.1, momentum=momentum)
    observations = torch.randn(64, 2)
    for target_kl in (0.5, 0.5, 0.02, 0.5, 0.02):
        noise = float(10 ** torch.empty(()).uniform_(-1, 1))
        returns = scale * (observations @ torch.randn(2) + 3 + noise * torch.randn(64))
        old = policy.predict_values(observations).detach().flatten()
        batch = Batch(observations, observations, old, old, returns, returns)
        fit(critic, stepper, batch, passes=1, batch_size=64, step_size=1.0, target_kl=target_kl)
        moved = (policy.predict_values(observations).detach().flatten() - old).square().mean().sqrt()
        share = float(moved / (returns - old).square().mean().sqrt()) / math.sqrt(2 * target_kl)
        assert 0.02 < share < 1 + 1e-3


def test_the_values_of_pendulum_stay_within_the_possible() -> None:
    """With the default settings the mean value leaves the range of the returns by a little at most."""
    lowest, highest = mean_values(seed=4, updates=15)
    assert -1700 < lowest < -50 and highest < 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_values_of_pendulum_stay_within_the_possible_for_long(seed: int) -> None:
    """The same for 50 updates on five seeds; a return is in [−1627, 0]."""
    lowest, highest = mean_values(seed, updates=50)
    assert -1700 < lowest < -300 and highest < 50


def mean_values(seed: int, updates: int) -> tuple[float, float]:
    """Return the lowest and the highest mean value of a rollout's states after an update of ACKTR."""
    agent = ACKTR(
        "MlpPolicy", "Pendulum-v1", seed=seed, device="cpu", policy_kwargs={"normalize_returns": True}
    )
    means = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            states = agent.rollout_buffer.observations.reshape(-1, 3)
            with torch.no_grad():
                means.append(float(agent.policy.predict_values(torch.as_tensor(states)).mean()))

    agent.learn((updates + 1) * agent.n_steps, Watch(), log_interval=None)
    return min(means), max(means)


def test_only_the_critic_moves_and_its_error_falls(parameters: Callable) -> None:
    """The actor is bitwise unchanged; minibatches and momentum fit a network."""
    policy, critic, stepper, batch = make(returns_of(64), layers=[16], momentum=0.5)
    actor = PolicyActor(policy)
    before = parameters(actor)
    options = {"batch_size": 16, "step_size": 1.0, "target_kl": 0.1}
    first = fit(critic, stepper, batch, passes=1, **options)
    last = fit(critic, stepper, batch, passes=30, **options)
    assert torch.equal(parameters(actor), before)
    assert 0 < last < 0.5 * first
    assert stepper.velocity.any()


def test_bad_numbers_move_nothing(parameters: Callable) -> None:
    """NaN returns or observations: no step, no statistic, no momentum, and NaN as the loss."""
    for field in ("returns", "observations"):
        policy, critic, stepper, batch = make(returns_of(8), layers=[4])
        getattr(batch, field)[3] = math.nan
        before = parameters(policy)
        assert math.isnan(fit(critic, stepper, batch, **FULL))
        assert torch.equal(parameters(policy), before)
        assert not stepper.velocity.any()
        assert not stepper.fisher.averages


def test_nothing_to_do(parameters: Callable) -> None:
    """A perfect critic stays, with a loss of 0; without an epoch there is no loss."""
    policy, critic, stepper, batch = make(torch.zeros(8), layers=[4])
    torch.nn.init.zeros_(policy.value_net.bias)
    before = parameters(policy)
    assert fit(critic, stepper, batch, **FULL) == 0
    assert math.isnan(fit(critic, stepper, batch, **FULL | {"passes": 0}))
    assert torch.equal(parameters(policy), before)
