"""The tensor versions of tasks against Gymnasium's: dynamics, rewards, ends, limits, and first states."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from stable_baselines3.common.evaluation import evaluate_policy

from agents import TRPO
from envs import make_vec_env
from envs.tensor.gymnasium_task import GymnasiumTask
from envs.tensor.mujoco.mujoco_task import MujocoTask
from envs.tensor.registry import TENSOR_ENVS, make_tensor_env

N_ENVS = 30
# test_mujoco_tasks.py has the MuJoCo tasks.
TASKS = sorted(name for name, task in TENSOR_ENVS.items() if not issubclass(task, MujocoTask))  # type: ignore[arg-type]
KWARGS: dict[str, dict[str, Any]] = {"LinearQuadratic-v0": {"noise": 0.0}}  # its noise cannot be equal
# Limits that make the short version of a test shorter.
SHORT_LIMITS = {
    "Acrobot-v1": 120,
    "CartPole-v1": 100,
    "LinearQuadratic-v0": 30,
    "MountainCar-v0": 150,
    "MountainCarContinuous-v0": 120,
    "Pendulum-v1": 30,
    "TwoStateChain-v0": 30,
}
# How episodes under `policy` end.
TERMINATED, TRUNCATED = "terminated", "truncated"
ENDS = {
    "Acrobot-v1": {TERMINATED, TRUNCATED},
    "CartPole-v1": {TERMINATED, TRUNCATED},
    "Catch-v0": {TERMINATED},
    "GaussianBandit-v0": {TERMINATED},
    "LinearQuadratic-v0": {TRUNCATED},
    "MountainCar-v0": {TERMINATED, TRUNCATED},
    "MountainCarContinuous-v0": {TERMINATED, TRUNCATED},
    "Pendulum-v1": {TRUNCATED},
    "TwoStateChain-v0": {TRUNCATED},
}


def policy(
    name: str, observations: np.ndarray, rng: np.random.Generator, *, clever: bool = True
) -> np.ndarray:
    """Return random actions; if clever, every other environment gets those that reach goals and limits."""
    n = len(observations)
    odd = clever & (np.arange(n) % 2 == 1)
    match name.partition("-")[0]:
        case "CartPole":
            actions, random = observations @ [0.1, 0.5, 1.0, 1.0] > 0, rng.integers(2, size=n)
        case "Acrobot":  # power is torque times the speed of the driven joint
            actions, random = 2 * (observations[:, 5] > 0), rng.integers(3, size=n)
        case "MountainCar":
            actions, random = 2 * (observations[:, 1] > 0), rng.integers(3, size=n)
        case "MountainCarContinuous":
            random = rng.uniform(-1.5, 1.5, n)
            actions = np.sign(observations[:, 1]) * np.abs(random)
            return np.where(odd, actions, random)[:, None]
        case "Pendulum":
            return rng.uniform(-3, 3, (n, 1))
        case "Catch":
            return rng.integers(3, size=n)
        case "TwoStateChain":
            return rng.integers(2, size=n)
        case "LinearQuadratic":
            return rng.normal(size=(n, 1))
        case _:
            return rng.normal(size=(n, 2))
    return np.where(odd, actions, random).astype(np.int64)


def state_of(env: Any) -> np.ndarray:
    """Return the state of one of Gymnasium's environments as the tensor version has it."""
    match type(env).__name__:
        case "Catch":
            return np.array([env._ball_row, env._ball_column, env._paddle])
        case "GaussianBandit":
            return np.ones(1)
        case "LinearQuadratic" | "TwoStateChain":
            return np.asarray(env._state)
    return np.asarray(env.state, dtype=np.float64)


def exact_observation(env: Any, observation: np.ndarray) -> np.ndarray:
    """Return what Gymnasium observes, where it can be had before it is rounded to float32."""
    state = state_of(env)
    match type(env).__name__:
        case "CartPoleEnv" | "MountainCarEnv" | "LinearQuadratic":
            return state
        case "AcrobotEnv":
            (a, b, *speeds) = state
            return np.array([np.cos(a), np.sin(a), np.cos(b), np.sin(b), *speeds])
        case "PendulumEnv":
            return np.array([np.cos(state[0]), np.sin(state[0]), state[1]])
    return observation


class Twin:
    """The tensor version of a task and as many of Gymnasium's environments, always in equal states."""

    def __init__(self, name: str, **limit: int) -> None:
        kwargs = KWARGS.get(name, {}) | limit
        self.ours: Any = make_tensor_env(name, N_ENVS, dtype=torch.float64, seed=1, **kwargs)
        self.theirs = [gym.make(name, disable_env_checker=True, **kwargs) for _ in range(N_ENVS)]
        first = [env.reset(seed=i)[0] for i, env in enumerate(self.theirs)]
        self.observations = np.stack(first).astype(np.float64)
        self.ours.reset()
        self.name, self.rng = name, np.random.default_rng(2)
        self.tolerance = 2e-7 if name == "MountainCarContinuous-v0" else 1e-12

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """Step both and compare everything; return terminated and truncated (n,)."""
        states = np.stack([state_of(env.unwrapped) for env in self.theirs], -1)
        self.ours.state.copy_(torch.as_tensor(states))
        actions = policy(self.name, self.observations.reshape(N_ENVS, -1), self.rng)
        step = self.ours.step(torch.as_tensor(actions))
        flags = np.zeros((2, N_ENVS), bool)
        exact, rewards = [], np.zeros(N_ENVS)
        for i, env in enumerate(self.theirs):
            observation, rewards[i], *flags[:, i], _ = env.step(actions[i])
            exact.append(exact_observation(env.unwrapped, observation))
            if flags[:, i].any():
                observation, _ = env.reset()
            self.observations[i] = observation
        np.testing.assert_allclose(step.final_observations, exact, rtol=self.tolerance, atol=self.tolerance)
        np.testing.assert_allclose(step.rewards, rewards, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(step.terminated, flags[0])
        np.testing.assert_array_equal(step.truncated, flags[1])
        over = flags.any(0)
        np.testing.assert_array_equal(step.observations[~over], step.final_observations[~over])
        np.testing.assert_array_equal(step.observations, self.ours.observe(self.ours.state))
        assert (self.ours.elapsed.numpy()[over] == 0).all() and (self.ours.elapsed.numpy()[~over] > 0).all()
        return flags[0], flags[1]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("episodes", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_step_is_gymnasiums(name: str, episodes: int) -> None:
    """From equal states: equal observations, rewards and ends to 1e-12, to the limit of each episode.

    The actions are float64, since Gymnasium computes the force with the precision of the action.
    """
    short = episodes == 30 and name in SHORT_LIMITS
    twin = Twin(name, max_episode_steps=SHORT_LIMITS[name]) if short else Twin(name)
    ended, ends = 0, set()
    while ended < episodes or ends != ENDS[name]:
        terminated, truncated = twin.step()
        ended += int((terminated | truncated).sum())
        ends |= {TERMINATED} if terminated.any() else set()
        ends |= {TRUNCATED} if truncated.any() else set()
        assert ended < 2000, f"episodes ended only by {ends}"


@pytest.mark.parametrize("name", TASKS)
def test_spaces_and_limits_are_gymnasiums(name: str) -> None:
    """Also with arguments of ``gymnasium.make``."""
    ours: Any = make_tensor_env(name, 2, max_episode_steps=7)
    theirs = gym.make(name)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert ours.max_episode_steps == 7
    assert make_tensor_env(name).max_episode_steps == theirs.spec.max_episode_steps  # type: ignore[attr-defined]
    assert ours.reset().shape == (2, *theirs.observation_space.shape)


@pytest.mark.parametrize("name", TASKS)
def test_first_states_have_gymnasiums_distribution(name: str) -> None:
    """Those of a reset and those within a step, by a Kolmogorov-Smirnov test of each coordinate."""
    n = 2000
    kwargs: dict[str, Any] = {"cell": 1} if name == "Catch-v0" else {}
    ours: Any = make_tensor_env(name, n, seed=3, max_episode_steps=1, **kwargs)
    env = gym.make(name, disable_env_checker=True, **kwargs)
    theirs = np.stack([env.reset(seed=i)[0].reshape(-1) for i in range(n)])
    actions = policy(name, ours.reset().reshape(n, -1).numpy(), np.random.default_rng(4))
    for first in (ours.reset(), ours.step(torch.as_tensor(actions)).observations):
        for column, expected in zip(first.reshape(n, -1).T.numpy(), theirs.T, strict=True):
            assert ks_2samp(column, expected).pvalue > 1e-5


@pytest.mark.parametrize(
    ("name", "kwargs", "attribute"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}, "_sutton_barto_reward"),
        ("MountainCar-v0", {"goal_velocity": 0.05}, "goal_velocity"),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.05}, "goal_velocity"),
        ("Pendulum-v1", {"g": 5.0}, "g"),
        ("Catch-v0", {"rows": 4, "columns": 3, "cell": 2}, "rows"),
        ("GaussianBandit-v0", {"target": (2.0, 3.0)}, "target"),
        ("LinearQuadratic-v0", {"R": ((3.0,),), "noise": 0.0}, "R"),
    ],
)
def test_arguments_of_the_task(
    name: str, kwargs: dict[str, Any], attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Gymnasium's constructor takes changes the tensor version in the same way."""
    monkeypatch.setitem(KWARGS, name, kwargs)
    twin = Twin(name)
    expected = kwargs.get(attribute.removeprefix("_"))
    np.testing.assert_array_equal(getattr(twin.ours.model, attribute), expected)
    for _ in range(20):
        twin.step()


def test_termination_at_the_time_limit_is_both() -> None:
    """As Gymnasium's TimeLimit has it."""
    reference = make_tensor_env("CartPole-v1", 1, seed=5)
    state, steps, push = reference.state_dict(), 0, torch.ones(1, dtype=torch.int64)
    while not reference.step(push).terminated:
        steps += 1
    limited = make_tensor_env("CartPole-v1", 1, max_episode_steps=steps + 1)
    limited.load_state_dict(state)
    for _ in range(steps):
        step = limited.step(push)
        assert not step.terminated and not step.truncated
    step = limited.step(push)
    assert step.terminated and step.truncated


def drift(name: str, n: int = 64, steps: int = 200) -> np.ndarray:
    """Return the largest differences (n,) of an observation between float32 and float64 within an episode.

    The actions are random; they are equal, and so are the first states. Only the first `steps` steps count.
    """
    exact, single = (
        cast(GymnasiumTask, make_tensor_env(name, n, dtype=dtype, seed=6, **KWARGS.get(name, {})))
        for dtype in (torch.float64, torch.float32)
    )
    single.reset()
    exact.state.copy_(single.state)
    observations = exact.observe(exact.state)
    alive, worst = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.float64)
    rng = np.random.default_rng(7)
    for _ in range(steps):
        actions = torch.as_tensor(policy(name, observations.numpy(), rng, clever=False))
        actions = actions.float() if actions.is_floating_point() else actions
        one, other = exact.step(actions), single.step(actions)
        difference = (one.final_observations - other.final_observations).abs().amax(1)
        worst = torch.where(alive, torch.maximum(worst, difference), worst)
        for step in (one, other):
            alive &= ~(step.terminated | step.truncated)
        observations = one.observations
    return worst.numpy()


# {task: (after one step, the median over episodes, the largest)}; docs/tensor-environments.md has figures. A
# pendulum that is just upright may fall to either side, so it has no useful largest one.
DRIFT = {
    "Acrobot-v1": (1e-6, 5e-5, 1e-3),
    "CartPole-v1": (1e-6, 2e-6, 1e-4),
    "LinearQuadratic-v0": (1e-6, 1e-5, 5e-5),
    "MountainCar-v0": (1e-6, 2e-6, 1e-5),
    "MountainCarContinuous-v0": (1e-6, 2e-6, 1e-5),
    "Pendulum-v1": (1e-6, 2e-4, np.inf),
}


@pytest.mark.parametrize("name", DRIFT)
def test_drift_in_float32(name: str) -> None:
    """Episodes in float32 stay near those in float64 under the same actions."""
    after_one, median, largest = DRIFT[name]
    assert drift(name, steps=1).max() < after_one
    over_an_episode = drift(name)
    assert np.median(over_an_episode) < median and over_an_episode.max() < largest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "settings"),
    [
        ("CartPole-v1", 60_000, {}),
        ("Acrobot-v1", 60_000, {}),
        ("MountainCarContinuous-v0", 20_000, {}),
        ("Pendulum-v1", 100_000, {"gamma": 0.9}),
    ],
)
def test_a_trained_policy_has_the_same_return_in_both(name: str, steps: int, settings: dict) -> None:
    """Over 500 deterministic episodes in each, within 4 standard errors of the difference."""
    vec_env = make_vec_env(name, 32, seed=0, vec_env="tensor", env_kwargs={"device": "cpu"})
    agent = TRPO("MlpPolicy", vec_env, n_steps=64, seed=0, device="cpu", **settings).learn(steps)
    both = []
    for kind in ("tensor", "dummy"):
        returns, lengths = evaluate_policy(
            agent, make_vec_env(name, 50, seed=1, vec_env=kind), 500, return_episode_rewards=True
        )
        both.append(np.array([returns, lengths], dtype=np.float64))
    (ours, theirs) = both
    error = np.sqrt(ours.var(axis=1) / 500 + theirs.var(axis=1) / 500)
    assert (np.abs(ours.mean(axis=1) - theirs.mean(axis=1)) <= 4 * error + 1e-6).all()
