"""What is ACKTR's own: its state, its cap, its statistics."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed

from agents import ACKTR
from agents.policy.actor import PolicyActor
from envs import Catch, make_vec_env
from npg import Categorical, FlatParameters, Rejection

SMALL = {"n_steps": 64, "seed": 0, "device": "cpu"}


def rolled_out(agent: ACKTR) -> ACKTR:
    """Return the agent with one more rollout in its buffer, not yet learnt from."""
    _, callback = agent._setup_learn(64, reset_num_timesteps=False)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent


def test_save_and_load_go_on_bitwise(tmp_path: Path, parameters: Callable) -> None:
    """Factors, their older inverses, momentum and counts are saved: the next updates are the same bits."""
    options = {"factor_interval": 2, "inverse_interval": 3, "n_critic_updates": 2}
    agent = ACKTR("MlpPolicy", "CartPole-v1", **SMALL, **options).learn(64 * 4)
    agent.save(tmp_path / "model")
    loaded = ACKTR.load(tmp_path / "model", env=agent.env, device="cpu")
    assert torch.equal(parameters(agent.policy), parameters(loaded.policy))
    rolled_out(agent)
    loaded._setup_learn(64, reset_num_timesteps=False)
    loaded.rollout_buffer = agent.rollout_buffer
    for _ in range(4):
        for each in (agent, loaded):
            set_random_seed(7)
            each.train()
        assert torch.equal(parameters(agent.policy), parameters(loaded.policy))
    assert not torch.equal(parameters(agent.policy), torch.zeros_like(parameters(agent.policy)))


def test_the_kl_follows_the_target() -> None:
    """Without momentum, with a long η and fresh factors, an update's KL is near a small δ."""
    kls = []
    options = {"n_steps": 512, "momentum": 0.0, "learning_rate": 10.0, "target_kl": 0.01}
    options |= {"factor_interval": 1, "inverse_interval": 1}
    policy_kwargs = {"normalize_observations": True}
    agent = ACKTR("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, **SMALL | options)
    for _ in range(8):
        rolled_out(agent).train()
        kls.append(agent.logger.name_to_value["npg/kl"])
    assert 0.25 < np.median(kls[1:]) / agent.target_kl < 2


def test_bad_statistics_reject_the_step_by_name(parameters: Callable) -> None:
    """A NaN that only the statistics meet: no parameter of the actor moves, no average, and it is named."""
    agent = rolled_out(ACKTR("MlpPolicy", "CartPole-v1", **SMALL, n_critic_updates=0))
    agent.actor_stepper.fisher._actor = Spoilt(agent.actor)
    before = parameters(agent.policy)
    agent.train()
    assert torch.equal(parameters(agent.policy), before)
    assert agent.outcomes[Rejection.NON_FINITE_FISHER] == 1
    assert not agent.actor_stepper.fisher.averages
    assert not agent.actor_stepper.velocity.any()


def test_a_singular_matrix_rejects_the_step_by_name(parameters: Callable) -> None:
    """Two inputs that are always equal, without damping to speak of: named, and nothing moves."""
    agent = rolled_out(ACKTR("MlpPolicy", "CartPole-v1", **SMALL, damping=1e-30, n_critic_updates=0))
    agent.rollout_buffer.observations[..., 1] = agent.rollout_buffer.observations[..., 0]
    before = parameters(agent.policy)
    agent.train()
    assert torch.equal(parameters(agent.policy), before)
    assert agent.outcomes[Rejection.SINGULAR_FISHER] == 1


class Spoilt(torch.nn.Module):
    """An actor whose coordinates are not finite."""

    def __init__(self, actor: PolicyActor):
        super().__init__()
        self.actor = actor

    def forward(self, observations: torch.Tensor) -> Categorical:
        """Return the actor's logits, times NaN."""
        return Categorical(self.actor(observations).logits * math.nan)


def test_an_update_is_remembered_as_momentum() -> None:
    """With momentum μ the actor's velocity is the step that was just taken."""
    agent = rolled_out(ACKTR("MlpPolicy", "CartPole-v1", **SMALL))
    before = FlatParameters(agent.actor).vector()
    agent.train()
    moved = FlatParameters(agent.actor).vector() - before
    assert moved.any()
    torch.testing.assert_close(agent.actor_stepper.velocity, moved, rtol=1e-3, atol=1e-6)


def test_exact_factors_cost_no_randomness() -> None:
    """With fisher_samples=None an update draws nothing from torch's generator, minibatches apart."""
    agent = rolled_out(ACKTR("MlpPolicy", "CartPole-v1", **SMALL, fisher_samples=None))
    state = torch.get_rng_state()
    agent.train()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_it_sees_an_image() -> None:
    """On Catch it earns nearly +1, where no policy that ignores the image earns more than −0.6."""
    size = {"rows": 5, "cell": 8}
    env = make_vec_env("Catch-v0", 8, seed=0, env_kwargs=size)
    agent = ACKTR(
        "CnnPolicy",
        env,
        learning_rate=1.0,
        n_steps=32,
        n_critic_updates=2,
        target_kl=0.03,
        factor_interval=2,
        inverse_interval=2,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 64}},
        seed=0,
        device="cpu",
    ).learn(6000, log_interval=None)
    mean, _ = evaluate_policy(agent, env, 50)
    assert Catch(**size).blind_return == pytest.approx(-0.6)
    assert mean >= 0.8


def test_a_copy_goes_on_alike(parameters: Callable) -> None:
    """copy.deepcopy keeps factors, momentum and counts."""
    agent = ACKTR("MlpPolicy", "CartPole-v1", **SMALL).learn(64 * 4)
    other = copy.deepcopy(agent)
    for each in (agent, other):
        each.set_random_seed(1)
        each._last_obs = None
        each.learn(64)
    assert agent.actor_stepper.updates == other.actor_stepper.updates == 5
    assert torch.equal(parameters(agent.policy), parameters(other.policy))
