"""EnvPool's environments against Gymnasium's: the same transitions, one a step, none a phantom."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from agents import TRPO, NonFiniteError
from envs import EnvPoolVecEnv, MissingExtraError, UnknownEnvironmentError

pytest.importorskip("envpool")


def last_observations(observations, dones, infos):
    """What the step led to, the ends of episodes included."""
    rows = zip(observations, dones, infos, strict=True)
    return [info["terminal_observation"] if done else row for row, done, info in rows]


def balance(observations: np.ndarray) -> np.ndarray:
    """Actions that keep CartPole's pole up."""
    return (observations @ [0.1, 0.5, 1.0, 1.0] > 0).astype(np.int64)


def test_cartpole_transitions_are_gymnasiums():
    """Every transition obeys Gymnasium's dynamics, ends where they say, and begins anew near zero."""
    env = EnvPoolVecEnv("CartPole-v1", 3, seed=0)
    before, length = env.reset(), np.zeros(3, int)
    model = gym.make("CartPole-v1").unwrapped
    rng, ended = np.random.default_rng(1), 0
    for _ in range(150):
        actions = rng.integers(2, size=3)
        after, rewards, dones, infos = env.step(actions)
        length += 1
        assert np.array_equal(rewards, np.ones(3))
        assert np.array_equal(dones, [info.keys() > {"episode", "terminal_observation"} for info in infos])
        for i, last in enumerate(last_observations(after, dones, infos)):
            model.reset()
            model.state = tuple(before[i])
            expected, _, terminated, _, _ = model.step(int(actions[i]))
            np.testing.assert_allclose(last, expected, atol=1e-5)
            assert terminated == dones[i]
            assert not infos[i]["TimeLimit.truncated"]
            if dones[i]:
                assert infos[i]["episode"]["l"] == infos[i]["episode"]["r"] == length[i]
                assert np.abs(after[i]).max() <= 0.05
                length[i], ended = 0, ended + 1
        before = after
    assert ended > 10
    env.close()


@pytest.mark.parametrize(("env_kwargs", "limit"), [({}, 500), ({"max_episode_steps": 20}, 20)])
def test_time_limit_is_a_truncation_after_exactly_so_many_transitions(env_kwargs, limit):
    """An episode cut at its limit has that many transitions, in the first episode and in the next."""
    env = EnvPoolVecEnv("CartPole-v1", 2, seed=0, env_kwargs=env_kwargs)
    env.reset()
    env.step(np.zeros(2, int))
    observations = env.reset()
    for step in range(1, 2 * limit + 1):
        observations, rewards, dones, infos = env.step(balance(observations))
        assert np.array_equal(rewards, [1, 1])
        assert np.array_equal(dones, [step % limit == 0] * 2)
        assert [info["TimeLimit.truncated"] for info in infos] == dones.tolist()
        if dones.all():
            assert [info["episode"]["l"] for info in infos] == [limit] * 2
    env.close()


def test_termination_at_the_limit_is_not_a_truncation():
    """An episode that the task ends in its last permitted step has no value to bootstrap, as in SB3."""
    lengths = []
    for limit in (500, None):
        env_kwargs = {"max_episode_steps": limit or lengths[0]}
        env = EnvPoolVecEnv("CartPole-v1", 1, seed=6, env_kwargs=env_kwargs)
        env.reset()
        dones = [False]
        while not dones[0]:
            _, _, dones, infos = env.step(np.ones(1, int))
        lengths.append(infos[0]["episode"]["l"])
        assert not infos[0]["TimeLimit.truncated"]
        env.close()
    assert lengths[0] == lengths[1] < 20


def test_pendulum_transitions_are_gymnasiums():
    """Continuous actions arrive unchanged: observations and rewards are Gymnasium's, over a reset."""
    env = EnvPoolVecEnv("Pendulum-v1", 2, seed=0)
    before = env.reset()
    model = gym.make("Pendulum-v1").unwrapped
    model.reset(seed=0)
    rng = np.random.default_rng(1)
    for step in range(1, 251):
        actions = rng.uniform(-2, 2, (2, 1)).astype(np.float32)
        after, rewards, dones, infos = env.step(actions)
        assert np.array_equal(dones, [step == 200] * 2)
        for i, last in enumerate(last_observations(after, dones, infos)):
            model.state = np.array([np.arctan2(before[i, 1], before[i, 0]), before[i, 2]])
            expected, reward, _, _, _ = model.step(actions[i])
            np.testing.assert_allclose(last, expected, atol=1e-4)
            assert rewards[i] == pytest.approx(reward, abs=1e-4)
            assert infos[i]["TimeLimit.truncated"] == (step == 200)
        before = after
    env.close()


@pytest.mark.mujoco
def test_hopper_episodes_are_gymnasiums():
    """From the same state under the same actions: the same observations, rewards, and last step."""
    env = EnvPoolVecEnv("Hopper-v5", 2, seed=0)
    models = [gym.make("Hopper-v5") for _ in range(2)]
    first = env.reset()
    rng, ended = np.random.default_rng(1), 0

    def follow(i: int, observation: np.ndarray) -> None:
        models[i].reset()
        models[i].unwrapped.set_state(np.concatenate([[0.0], observation[:5]]), observation[5:])

    for i in range(2):
        follow(i, first[i])
    for _ in range(100):
        actions = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
        after, rewards, dones, infos = env.step(actions)
        for i, last in enumerate(last_observations(after, dones, infos)):
            expected, reward, terminated, _, _ = models[i].step(actions[i])
            np.testing.assert_allclose(last, expected, atol=1e-3)
            assert rewards[i] == pytest.approx(reward, abs=1e-3)
            assert dones[i] == terminated
            if dones[i]:
                ended += 1
                follow(i, after[i])
    assert ended >= 4
    env.close()


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", pytest.param("Hopper-v5", marks=pytest.mark.mujoco)]
)
def test_spaces_are_gymnasiums(env_id):
    """SB3 compares spaces when it loads a model, and samples actions from them."""
    env, gymnasium = EnvPoolVecEnv(env_id, 2), gym.make(env_id)
    assert env.observation_space == gymnasium.observation_space
    assert env.action_space == gymnasium.action_space
    assert env.reset().dtype == gymnasium.observation_space.dtype
    env.close()


@pytest.mark.mujoco
def test_options_that_change_the_spaces():
    """EnvPool's options have Gymnasium's names, so that the spaces agree under them too."""
    env_kwargs = {"exclude_current_positions_from_observation": False, "max_episode_steps": 7}
    env, gymnasium = EnvPoolVecEnv("Hopper-v5", 2, env_kwargs=env_kwargs), gym.make("Hopper-v5", **env_kwargs)
    assert env.observation_space == gymnasium.observation_space
    assert env.reset().shape == (2, 12)
    assert env.get_attr("spec")[1].max_episode_steps == 7
    env.close()


def test_actions_are_float32_where_gymnasium_cannot_build_the_task(monkeypatch):
    """EnvPool brings MuJoCo along; without Gymnasium's, the spaces differ only in bounds."""

    def fail(*args, **kwargs):
        raise gym.error.DependencyNotInstalled("mujoco")

    monkeypatch.setattr(gym, "make", fail)
    env = EnvPoolVecEnv("InvertedPendulum-v5", 1)
    assert env.action_space == gym.spaces.Box(-3, 3, (1,), np.float32)
    env.close()


def walk(env: EnvPoolVecEnv, steps: int = 40) -> np.ndarray:
    """Observations (steps + 1, n_envs, 4) under constant actions, over several resets."""
    return np.stack([env.reset(), *(env.step(np.ones(env.num_envs, int))[0] for _ in range(steps))])


def test_seeds():
    """Environment i has seed + i, at building and by seed(); None is random, from NumPy's state."""
    env = EnvPoolVecEnv("CartPole-v1", 2, seed=3)
    first = walk(env)
    again = env.reset()
    assert not np.array_equal(first[0], again)
    env.seed(3)
    assert np.array_equal(walk(env), first)
    env.seed(4)
    assert np.array_equal(walk(env)[:, 0], first[:, 1])
    assert not np.array_equal(env.reset(), EnvPoolVecEnv("CartPole-v1", 2, seed=4).reset())
    starts = []
    for state in (0, 0, 1):
        np.random.seed(state)  # noqa: NPY002 (SB3 seeds this one)
        starts.append(EnvPoolVecEnv("CartPole-v1", 2).reset())
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])
    env.close()


def test_agent_learns_and_evaluates(recwarn):
    """The same seed gives the same agent; episodes reach SB3's statistics, and its Monitor is found."""
    weights = []
    for _ in range(2):
        env = EnvPoolVecEnv("CartPole-v1", 4)
        agent = TRPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=1, device="cpu").learn(256)
        weights.append([parameter.detach().numpy() for parameter in agent.policy.parameters()])
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert 128 < sum(episode["l"] for episode in agent.ep_info_buffer) <= 256
    returns, lengths = evaluate_policy(agent, env, 5, return_episode_rewards=True)
    assert returns == lengths
    assert not [warning for warning in recwarn if "Monitor" in str(warning.message)]
    env.close()


def test_bad_number_names_the_environment(monkeypatch):
    """The error of a rollout finds the id."""
    env = EnvPoolVecEnv("CartPole-v1", 2, seed=0)
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu")
    receive = env.step_wait
    monkeypatch.setattr(env, "step_wait", lambda: (receive()[0] * np.nan, *receive_rest))
    receive_rest = (np.zeros(2, np.float32), np.zeros(2, bool), [{}, {}])
    with pytest.raises(NonFiniteError, match=r"CartPole-v1 \(environment 0 of 2\)"):
        agent.learn(16)
    env.close()


def test_inside_is_not_reachable():
    """Attributes of the pool are readable; what would need single environments says what to use."""
    env = EnvPoolVecEnv("CartPole-v1", 3, env_kwargs={"render_mode": "rgb_array"})
    assert [spec.id for spec in env.get_attr("spec", [0, 2])] == ["CartPole-v1"] * 2
    assert env.render_mode == "rgb_array"
    assert env.has_attr("num_envs") and not env.has_attr("gravity")
    assert env.env_is_wrapped(Monitor, 1) == [True]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    for touch in (lambda: env.set_attr("gravity", 1), lambda: env.env_method("observe")):
        with pytest.raises(NotImplementedError, match="vec_env='dummy'"):
            touch()
    env.reset()
    assert [frame.ndim for frame in env.get_images()] == [3] * 3
    env.set_options({"low": 0})
    with pytest.raises(ValueError, match="env_kwargs"):
        env.reset()
    env.close()


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "error", "message"),
    [
        ("CartPole-v9", {}, UnknownEnvironmentError, "did you mean 'CartPole-v1'.*vec_env='auto'"),
        ("LinearQuadratic-v0", {}, UnknownEnvironmentError, "envpool.list_all_envs"),
        ("Catch-v0", {}, ValueError, "another task"),
        ("CartPole-v1", {"gravity": 1}, ValueError, r"max_episode_steps.*got \['gravity'"),
        ("CartPole-v1", {"batch_size": 1}, ValueError, "batch_size.*set here"),
    ],
)
def test_errors_name_the_fix(env_id, env_kwargs, error, message):
    """Unknown tasks, another task by the same name (ours is Catch-v0 too), and unknown options."""
    with pytest.raises(error, match=message):
        EnvPoolVecEnv(env_id, 2, env_kwargs=env_kwargs)


def test_missing_package_names_the_extra(monkeypatch):
    """Without EnvPool the error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingExtraError, match=r'pip install -c constraints.txt -e "\.\[envpool\]"'):
        EnvPoolVecEnv("CartPole-v1")
