"""Gymnasium's vector environments through SB3's interface: all autoreset modes, bit for bit."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents import TRPO
from envs import GymnasiumVecEnv

N_ENVS = 3
MODES = list(AutoresetMode)


class Ragged(gym.Env):
    """Episodes of 1 to 5 steps, which end in every way; all numbers depend on seed, episode and action."""

    def __init__(self, rank: int = 0, dict_observations: bool = False) -> None:
        self.rank = rank
        box = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space = gym.spaces.Dict({"all": box}) if dict_observations else box
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.episode = self.time = 0

    def observe(self) -> Any:
        """A random number shows a reset too many; rank, episode and time show which step this is."""
        array = np.array([self.rank, self.episode, self.time, self.np_random.normal()], np.float32)
        return {"all": array} if isinstance(self.observation_space, gym.spaces.Dict) else array

    def reset(self, *, seed=None, options=None):
        """Begins the next episode."""
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self.observe(), {"begun": self.episode, "options": str(options or None)}

    def step(self, action):
        """End after 1 + (rank + 2 · episode) mod 5 steps: terminated, truncated or both."""
        self.time += 1
        over = self.time == 1 + (self.rank + 2 * self.episode) % 5
        how = (self.rank + self.episode) % 3
        reward = float(np.float64(action).sum()) + 0.1 * self.time
        info = {"time": self.time, "nested": {"odd": 1}} if self.time % 2 else {"time": self.time}
        return self.observe(), reward, over and how != 1, over and how != 0, info

    def render(self):
        """A frame that shows the rank."""
        return np.full((2, 2, 3), self.rank, np.uint8)


def ragged(**kwargs: Any) -> list[Callable[[], gym.Env]]:
    """One constructor for each environment."""
    return [lambda rank=rank: Ragged(rank, **kwargs) for rank in range(N_ENVS)]


def reference(**kwargs: Any) -> VecEnv:
    """What SB3 makes of the same environments."""
    return DummyVecEnv([lambda make=make: Monitor(make()) for make in ragged(**kwargs)])


def sync(mode: AutoresetMode, **kwargs: Any) -> VecEnv:
    """The adapter around a SyncVectorEnv."""
    return GymnasiumVecEnv(SyncVectorEnv(ragged(**kwargs), autoreset_mode=mode))


def asynchronous(mode: AutoresetMode, **kwargs: Any) -> VecEnv:
    """The adapter around an AsyncVectorEnv."""
    return GymnasiumVecEnv(AsyncVectorEnv(ragged(), autoreset_mode=mode, **kwargs))


CANDIDATES: dict[str, Callable[[], VecEnv]] = {
    **{f"sync {mode.value}": lambda mode=mode: sync(mode) for mode in MODES},
    **{f"async {mode.value}": lambda mode=mode: asynchronous(mode) for mode in MODES},
    "sync without copies": lambda: GymnasiumVecEnv(SyncVectorEnv(ragged(), copy=False)),
    "async, pipes": lambda: asynchronous(AutoresetMode.DISABLED, shared_memory=False),
    "wrapped": lambda: GymnasiumVecEnv(
        gym.wrappers.vector.RecordEpisodeStatistics(
            gym.wrappers.vector.TransformReward(SyncVectorEnv(ragged()), lambda reward: reward)
        )
    ),
}


def walk(env: VecEnv, steps: int = 40) -> list[Any]:
    """All that a seeded walk under random actions returns, with a reset amid episodes."""
    env.seed(5)
    seen: list[Any] = [env.reset(), [dict(info) for info in env.reset_infos]]
    rng = np.random.default_rng(0)
    for step in range(steps):
        if step == 20:
            seen.append(env.reset())
        observations, rewards, dones, infos = env.step(rng.uniform(-1, 1, (N_ENVS, 2)).astype(np.float32))
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen += [observations, rewards, dones, infos, [dict(info) for info in env.reset_infos]]
    env.close()
    return seen


@pytest.mark.parametrize("make", CANDIDATES.values(), ids=CANDIDATES.keys())
def test_every_step_is_that_of_dummy_vec_env(make):
    """Observations, rewards, dones, and infos key by key: no phantom, none lost, all modes alike."""
    for expected, got in zip(walk(reference()), walk(make()), strict=True):
        np.testing.assert_equal(got, expected)
        assert getattr(got, "dtype", None) == getattr(expected, "dtype", None)


@pytest.mark.parametrize("mode", MODES)
def test_dict_observations(mode):
    """Dict observations, and the last ones of episodes, are those of DummyVecEnv too."""
    for expected, got in zip(
        walk(reference(dict_observations=True)), walk(sync(mode, dict_observations=True)), strict=True
    ):
        np.testing.assert_equal(got, expected)


class Silent(BaseCallback):
    """A callback without an opinion."""

    def _on_step(self) -> bool:
        return True


def rollout(env: VecEnv) -> dict[str, np.ndarray]:
    """The buffer after one rollout of a seeded agent."""
    agent = TRPO("MlpPolicy", env, n_steps=32, batch_size=32 * N_ENVS, seed=3, device="cpu")
    _, callback = agent._setup_learn(1000, Silent())
    assert agent.collect_rollouts(env, callback, agent.rollout_buffer, 32)
    assert [dict(episode, t=0) for episode in agent.ep_info_buffer]
    env.close()
    names = ("observations", "actions", "rewards", "episode_starts", "values", "returns", "advantages")
    return {name: getattr(agent.rollout_buffer, name) for name in names}


@pytest.mark.parametrize("name", ["sync NextStep", "sync SameStep", "sync Disabled", "async NextStep"])
def test_returns_and_advantages_are_those_of_dummy_vec_env(name):
    """One rollout of an agent fills the same buffer, bitwise, truncations bootstrapped included."""
    expected, got = rollout(reference()), rollout(CANDIDATES[name]())
    assert expected["episode_starts"].sum() > 3 * N_ENVS
    for key in expected:
        assert np.array_equal(got[key], expected[key]), key


def test_vectorised_cartpole_has_no_phantom():
    """Every transition of the natively vectorised CartPole obeys its dynamics; others stand still."""
    options = {"vectorization_mode": "vector_entry_point", "max_episode_steps": 20}
    inner = gym.make_vec("CartPole-v1", num_envs=3, **options)
    env = GymnasiumVecEnv(inner)
    env.seed(0)
    before, length = env.reset(), np.zeros(3, int)
    model = gym.make("CartPole-v1").unwrapped
    rng, ended = np.random.default_rng(1), 0
    for _ in range(150):
        actions = rng.integers(2, size=3)
        after, rewards, dones, infos = env.step(actions)
        length += 1
        assert np.array_equal(rewards, np.ones(3))
        for i in range(3):
            model.reset()
            model.state = tuple(before[i])
            expected, _, terminated, _, _ = model.step(int(actions[i]))
            last = infos[i]["terminal_observation"] if dones[i] else after[i]
            np.testing.assert_allclose(last, expected, atol=1e-5)
            assert dones[i] == (terminated or length[i] == 20)
            assert infos[i]["TimeLimit.truncated"] == (dones[i] and not terminated)
            if dones[i]:
                assert infos[i]["episode"]["l"] == infos[i]["episode"]["r"] == length[i]
                assert np.abs(after[i]).max() <= 0.05
                length[i], ended = 0, ended + 1
        before = after
    assert ended > 10
    env.close()


class Unmasked(gym.vector.VectorEnv):
    """A natively vectorised NEXT_STEP environment that cannot reset some of its rows alone."""

    def __init__(self, num_envs: int, metadata: dict[str, Any]) -> None:
        self.num_envs, self.metadata = num_envs, metadata
        self.single_observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self.time = np.zeros(num_envs)
        self.done = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        """Reset all, whatever the options say."""
        self.time[:], self.done[:] = 0, False
        return self.time[:, None].astype(np.float32), {}

    def step(self, actions):
        """Episodes of three steps."""
        self.time = np.where(self.done, 0, self.time + 1)
        reward = np.where(self.done, 0.0, 1.0)
        self.done = self.time == 3
        return self.time[:, None].astype(np.float32), reward, self.done, np.zeros(self.num_envs, bool), {}


NEXT = {"autoreset_mode": AutoresetMode.NEXT_STEP}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unmasked(2, NEXT), "SAME_STEP or DISABLED.*partial_reset"),
        (lambda: Unmasked(2, {}), r"metadata\['autoreset_mode'\].*got None"),
        (lambda: Unmasked(2, {"autoreset_mode": "NextStep"}), "AutoresetMode, got 'NextStep'"),
        (lambda: AsyncVectorEnv(ragged(), shared_memory=False), "shared_memory=True"),
        (lambda: gym.wrappers.vector.NormalizeReward(SyncVectorEnv(ragged())), "NormalizeReward"),
    ],
)
def test_rejects_what_would_give_phantoms(make: Callable[[], VectorEnv], message: str):
    """What cannot be reset in part, or does not tell its mode, is an error that names the fix."""
    inner = make()
    with pytest.raises(ValueError, match=message):
        GymnasiumVecEnv(inner)
    if not isinstance(inner, Unmasked):
        inner.close()


def test_one_environment_takes_the_step_that_resets():
    """With nobody to wait for, NEXT_STEP works for every vector environment."""
    env = GymnasiumVecEnv(Unmasked(1, NEXT))
    env.reset()
    seen = [env.step(np.zeros(1, int)) for _ in range(7)]
    assert [float(step[0][0, 0]) for step in seen] == [1, 2, 0, 1, 2, 0, 1]
    assert all(step[1][0] == 1 for step in seen)
    assert seen[2][3][0]["terminal_observation"] == 3


def test_partial_reset_of_the_user():
    """A user's own way of resetting some rows makes any NEXT_STEP environment usable."""

    def partial_reset(env: Unmasked, mask: np.ndarray) -> tuple[Any, dict]:
        env.time[mask], env.done[mask] = 0, False
        return env.time[:, None].astype(np.float32), {}

    env = GymnasiumVecEnv(Unmasked(2, NEXT), partial_reset=partial_reset)
    env.reset()
    env.vector_env.time[1] = 1
    seen = [env.step(np.zeros(2, int)) for _ in range(6)]
    assert [step[0][:, 0].tolist() for step in seen] == [[1, 2], [2, 0], [0, 1], [1, 2], [2, 0], [0, 1]]
    assert all((step[1] == 1).all() for step in seen)


def test_reaches_into_single_environments():
    """Attributes, methods and wrappers, of all environments or of some."""
    env = sync(AutoresetMode.NEXT_STEP)
    assert env.get_attr("spec") == [None] * 3
    assert env.get_attr("rank", [2, 0]) == [2, 0]
    env.set_attr("rank", 7, indices=1)
    assert env.get_attr("rank") == [0, 7, 2]
    env.reset()
    assert list(env.env_method("observe", indices=[1])[0][:2]) == [7, 1]
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, 0) == [False]
    assert [frame.max() for frame in env.get_images()] == [0, 7, 2]
    env.close()


def test_reset_options_reach_the_environments():
    """SB3's set_options are handed on once; different ones for each are rejected."""
    env = sync(AutoresetMode.DISABLED)
    env.set_options({"a": 1})
    env.reset()
    assert [info["options"] for info in env.reset_infos] == ["{'a': 1}"] * 3
    env.reset()
    assert [info["options"] for info in env.reset_infos] == ["None"] * 3
    env.set_options([{"a": 1}, {}, {}])
    with pytest.raises(ValueError, match="equal reset options"):
        env.reset()
    env.close()


def test_evaluation_counts_episodes_without_a_warning(recwarn):
    """SB3's evaluate_policy finds its Monitor, and the episodes' true lengths."""
    env = sync(AutoresetMode.NEXT_STEP)
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=24, device="cpu")
    _, lengths = evaluate_policy(agent, env, 12, return_episode_rewards=True)
    assert set(lengths) <= {1, 2, 3, 4, 5} and len(set(lengths)) > 1
    assert not [warning for warning in recwarn if "Monitor" in str(warning.message)]
    env.close()
