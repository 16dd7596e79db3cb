"""Recurrent policies in every algorithm that has them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import ACKTR, CPO

SMALL = {"lstm_hidden_size": 8}


@pytest.fixture(autouse=True)
def _recurrent(algorithm: type) -> None:
    if issubclass(algorithm, ACKTR | CPO) or "MlpLstmPolicy" not in algorithm.policy_aliases:
        pytest.skip("no recurrent policies")


def build_env(observations: str, actions: str) -> DummyVecEnv:
    """Return environments with the named spaces."""
    return make_vec_env(lambda: SpacesEnv(OBSERVATIONS[observations], ACTIONS[actions]), 2, seed=0)


def check_learns(agent, weights: Callable) -> None:
    """Two updates move the policy and keep it finite; predictions are legal, single and batched."""
    before = weights(agent.policy)
    agent.learn(64)
    assert torch.isfinite(weights(agent.policy)).all() and not torch.equal(before, weights(agent.policy))
    env = agent.get_env()
    observations = env.reset()
    _, state = agent.predict(observations, deterministic=True)
    actions, after = agent.predict(observations, state, np.array([True, False]), deterministic=True)
    assert all(env.action_space.contains(action) for action in actions)
    assert np.allclose(state[0][:, 0], after[0][:, 0], atol=1e-6)
    assert not np.allclose(state[0][:, 1], after[0][:, 1], atol=1e-6)
    first = {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
    single, of_single = agent.predict(first, deterministic=True)
    assert env.action_space.contains(single if single.ndim else int(single))
    assert np.allclose(single, actions[0], atol=1e-5) and of_single[0].shape[1] == 1


@pytest.mark.covering(1)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_learns(make: Callable, weights: Callable, observations: str, actions: str, cell: str) -> None:
    """Observations of every kind with actions of every kind."""
    policy = policy_for(OBSERVATIONS[observations]).replace("Policy", "LstmPolicy")
    check_learns(
        make(policy, build_env(observations, actions), policy_kwargs=SMALL | {"cell": cell}), weights
    )


@pytest.mark.covering(1)
@pytest.mark.parametrize("squash_output", [True, False])
def test_gsde_learns(make: Callable, weights: Callable, squash_output: bool) -> None:
    """State-dependent exploration, whose noise depends on what the policy remembers."""
    kwargs = SMALL | {"squash_output": squash_output}
    agent = make(
        "MlpLstmPolicy", build_env("box", "box"), use_sde=True, sde_sample_freq=4, policy_kwargs=kwargs
    )
    check_learns(agent, weights)


def test_save_load_evaluate(make: Callable, algorithm: type, tmp_path: Path) -> None:
    """Normalisers, callbacks that evaluate, saving and loading: a loaded agent plays the same episodes."""
    env = VecNormalize(build_env("box", "box"))
    other = VecNormalize(build_env("box", "box"), training=False, norm_reward=False)
    agent = make("MlpLstmPolicy", env, policy_kwargs=SMALL | {"cell": "gru"})
    agent.learn(64, callbacks.EvalCallback(other, eval_freq=16, n_eval_episodes=2, verbose=0))
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=env)
    env.training = False
    returns = []
    for each in (agent, loaded):
        env.seed(3)
        returns.append(evaluate_policy(each, env, 4, return_episode_rewards=True, warn=False)[0])
    assert returns[0] == returns[1]
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128
