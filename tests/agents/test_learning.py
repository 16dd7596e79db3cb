"""Learning: real tasks reach real returns, and tasks with a known answer reach that."""

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from agents import ACKTR, ALGORITHMS, NPG, TRPO, VPG
from agents.base import PolicyGradientAgent
from envs import GaussianBandit, LinearQuadratic, make_vec_env
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve

GAMMA = 0.9


@pytest.mark.parametrize("algorithm", [NPG, pytest.param(TRPO, marks=pytest.mark.slow)])
def test_linear_quadratic_regulator_ends_near_riccati(algorithm: type[PolicyGradientAgent]) -> None:
    """A linear policy ends within 1 % of the Riccati-optimal cost, bias and all, computed exactly."""
    # Episodes of 10 steps never end by themselves: without bootstrapping at the cut, the learner would
    # see a tenth of the horizon. Rewards are scaled for the critic, which changes no optimum; δ falls,
    # because a step of constant KL never comes to rest.
    env = make_vec_env("LinearQuadratic-v0", 16, seed=0, env_kwargs={"max_episode_steps": 10})
    agent = algorithm(
        "MlpPolicy",
        VecNormalize(env, norm_obs=False, gamma=GAMMA),
        n_steps=128,
        gamma=GAMMA,
        gae_lambda=0.97,
        target_kl=LinearSchedule(0.05, 0.001, 1.0),
        policy_kwargs={"net_arch": {"pi": [], "vf": [64, 64]}},
        seed=0,
        device="cpu",
    ).learn(60_000, log_interval=None)
    gain = -agent.policy.action_net.weight.detach().double().numpy()
    bias = agent.policy.action_net.bias.detach().double().numpy()
    problem = LinearQuadratic()
    optimum = problem.optimal_cost(GAMMA)
    assert problem.cost(np.zeros_like(gain), GAMMA) > 3 * optimum
    assert optimum <= problem.cost(gain, GAMMA, bias=bias) <= 1.01 * optimum


def test_bandit_is_solved(agent_class: type[PolicyGradientAgent]) -> None:
    """The mean finds the target: 95 % of what there is to gain is gained, by every agent."""
    env = make_vec_env("GaussianBandit-v0", 8, seed=0)
    rates = {VPG: {"learning_rate": 0.03}, ACKTR: {"learning_rate": 0.1}}
    agent = agent_class(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=64,
        n_critic_updates=4,
        policy_kwargs={"net_arch": []},
        seed=0,
        device="cpu",
        **rates.get(agent_class, {"target_kl": 0.05}),
    )
    bandit = GaussianBandit()

    def reward() -> float:
        mean = agent.predict(np.ones(1, np.float32), deterministic=True)[0]
        return bandit.expected_reward(mean, np.zeros(2))

    before = reward()
    agent.learn(256 * 80, log_interval=None)
    assert bandit.optimal_reward - reward() < 0.05 * (bandit.optimal_reward - before)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("algorithm", [pytest.param(NPG, marks=SLOW), TRPO, pytest.param(ACKTR, marks=SLOW)])
def test_cartpole_is_solved(algorithm: type[PolicyGradientAgent]) -> None:
    """The return of deterministic episodes reaches Gymnasium's threshold of 475."""
    env = make_vec_env("CartPole-v1", 8, seed=0)
    options = {"n_steps": 64, "n_critic_updates": 2} if algorithm is ACKTR else {"n_steps": 128}
    agent = algorithm("MlpPolicy", env, **options, seed=0, device="cpu").learn(45_000, log_interval=None)
    mean, _ = evaluate_policy(agent, make_vec_env("CartPole-v1", 8, seed=99), 20)
    assert mean >= 475


@pytest.mark.slow
@pytest.mark.mujoco
@pytest.mark.parametrize(("algo", "threshold"), [("trpo", 1500), ("npg", 1000), ("acktr", 600)])
def test_hopper_learns(algo: str, threshold: float) -> None:
    """With the shipped settings, the training return passes its threshold within 3e5 steps."""
    shipped = resolve(Arguments(algo=(algo,), env=("Hopper-v5",)))
    env = make_vec_env("Hopper-v5", shipped.n_envs, seed=0)
    agent = ALGORITHMS[algo](shipped.policy, env, seed=0, device="cpu", **shipped.hyperparameters)
    agent.learn(300_000, log_interval=None)
    assert np.mean([episode["r"] for episode in agent.ep_info_buffer]) >= threshold
