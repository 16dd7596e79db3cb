"""The state of a vector environment: its continuation is the uninterrupted one, in whatever processes."""

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from envs import GymnasiumVecEnv, make_vec_env
from envs.state.environment_state import StateUnavailableError
from envs.state.vec_env_state import restore_vec_state, take_vec_state
from envs.workers.worker_vec_env import WorkerVecEnv
from experiments.run.plain_data import from_bytes, to_bytes

N_ENVS, LIMIT = 3, 20
REPLACED = "ignore:the worker of environments:RuntimeWarning"
TASKS = ["Acrobot-v1", "CartPole-v1", "Pendulum-v1", "Catch-v0", "LinearQuadratic-v0", "TwoStateChain-v0"]
ROBOTS = [pytest.param(task, marks=pytest.mark.mujoco) for task in ("Ant-v5", "Hopper-v5", "Humanoid-v5")]


@pytest.fixture
def make() -> Iterator[Any]:
    """Return a maker of vector environments, which closes them in the end."""
    made = []

    def make(task: Any, kind: str = "dummy", n_envs: int = N_ENVS, seed: int = 1) -> VecEnv:
        if isinstance(task, str):
            kwargs = {} if task in ("Catch-v0", "GaussianBandit-v0") else {"max_episode_steps": LIMIT}
            made.append(make_vec_env(task, n_envs, seed=seed, vec_env=kind, env_kwargs=kwargs))
        elif kind == "dummy":
            made.append(DummyVecEnv([task] * n_envs))
        else:
            made.append(WorkerVecEnv([task] * n_envs, n_workers=int(kind)))
        return made[-1]

    yield make
    for vec_env in made:
        vec_env.close()


def bits(value: Any) -> Any:
    """Return a value such that == compares types, shapes and bits."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [bits(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), repr(value)


def through_file(state: Any) -> Any:
    """Return what a checkpoint file gives back."""
    return from_bytes(to_bytes(state))


def actions_for(vec_env: VecEnv, n: int) -> list[np.ndarray]:
    """Return actions to take, (n_envs, ...) each; the environments' own spaces keep out of it."""
    generator = np.random.default_rng(5)
    space, n_envs = vec_env.action_space, vec_env.num_envs
    if isinstance(space, spaces.Discrete):
        return list(generator.integers(space.n, size=(n, n_envs)))
    return list(generator.uniform(-1, 1, (n, n_envs, *space.shape)).astype(np.float32))


def advance(vec_env: VecEnv, actions: list[np.ndarray]) -> Any:
    """Return the bits of what steps give."""
    seen = []
    for action in actions:
        observations, rewards, dones, infos = vec_env.step(action)
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen.append(bits([observations, rewards, dones, infos]))
    return seen


KINDS = [("dummy", "dummy"), ("dummy", "workers"), ("workers", "dummy"), ("workers", "workers")]


@pytest.mark.covering(2)
@pytest.mark.parametrize(("first", "second"), KINDS)
@pytest.mark.parametrize("task", [*TASKS, *ROBOTS])
def test_continues_to_the_same_bits(make: Any, task: str, first: str, second: str) -> None:
    """From after a reset, mid-episode and before a truncation, across kinds, past ends and a reset."""
    vec_env, other = make(task, first), make(task, second, seed=99)
    actions = actions_for(vec_env, 2 * LIMIT + 5)
    vec_env.reset()
    states, seen = {}, []
    for start in range(len(actions)):
        if start in (0, 7, LIMIT - 1):
            states[start] = through_file(take_vec_state(vec_env))
        seen += advance(vec_env, [actions[start]])
    last = bits(vec_env.reset())
    for start, state in states.items():
        restore_vec_state(other, state)
        assert advance(other, actions[start:]) == seen[start:]
        assert bits(other.reset()) == last


def test_another_number_of_workers(make: Any) -> None:
    """Where environments keep to their own generators, they may be divided otherwise."""
    task = partial(gym.make, "CartPole-v1")
    vec_env, other = make(task, "2", 4), make(task, "3", 4)
    vec_env.seed(0)
    vec_env.reset()
    actions = actions_for(vec_env, 60)
    advance(vec_env, actions[:30])
    restore_vec_state(other, through_file(take_vec_state(vec_env)))
    assert advance(other, actions[30:]) == advance(vec_env, actions[30:])


def test_equal_runs_have_equal_states(make: Any) -> None:
    """In workers too, whose global generators are seeded by the operating system but drawn from by nobody."""
    states = []
    for _ in range(2):
        vec_env = VecNormalize(make("LinearQuadratic-v0", "workers"))
        vec_env.reset()
        advance(vec_env, actions_for(vec_env, 30))
        states.append(bits(take_vec_state(vec_env)))
    assert states[0] == states[1]


def images(vec_env: VecEnv) -> VecEnv:
    """Return pictures as a convolution wants them, with a past."""
    return VecTransposeImage(VecFrameStack(vec_env, 3))


WRAPPED = {
    "normalised": (lambda vec_env: VecNormalize(VecCheckNan(vec_env)), "Pendulum-v1"),
    "rewards only": (partial(VecNormalize, norm_obs=False), "CartPole-v1"),
    "frames": (images, "Catch-v0"),
    "normalised frames": (lambda vec_env: VecNormalize(VecFrameStack(vec_env, 2)), "Pendulum-v1"),
    "monitor": (lambda vec_env: VecMonitor(DummyVecEnv(bare(vec_env))), "Pendulum-v1"),
}


def bare(vec_env: VecEnv) -> list[Any]:
    """Return makers of the environments without their Monitors."""
    vec_env.close()
    return [partial(gym.make, "Pendulum-v1", max_episode_steps=LIMIT)] * N_ENVS


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("start", [0, 7, 27])
def test_wrappers_continue(make: Any, name: str, start: int) -> None:
    """Moments, returns, stacks and counts; what the wrapper says of its past as well."""
    wrap, task = WRAPPED[name]
    vec_env, other = (wrap(make(task, seed=seed)) for seed in (1, 2))
    vec_env.seed(3)
    vec_env.reset()
    actions = actions_for(vec_env, 60)
    advance(vec_env, actions[:start])
    other.reset()
    advance(other, actions[:3])
    restore_vec_state(other, through_file(take_vec_state(vec_env)))
    if isinstance(vec_env, VecNormalize) and vec_env.norm_obs:
        assert bits(other.get_original_obs()) == bits(vec_env.get_original_obs())
    assert advance(other, actions[start:]) == advance(vec_env, actions[start:])
    assert bits(take_vec_state(other)) == bits(take_vec_state(vec_env))


class Pair(gym.Env):
    """Two numbers by name; takes an option."""

    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "b": spaces.Box(-9, 9, (1,))})
    action_space = spaces.Discrete(2)
    low = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Draw."""
        super().reset(seed=seed)
        self.low = (options or {}).get("low", 0.0)
        return self.draw(), {}

    def step(self, action: Any) -> Any:
        """Draw again, and end at times."""
        observation = self.draw()
        return observation, float(observation["b"][0]), bool(observation["a"][0] > 0.9), False, {}

    def draw(self) -> dict[str, np.ndarray]:
        """Return both numbers."""
        return {
            key: self.np_random.uniform(self.low, 1, size=space.shape).astype(np.float32)
            for key, space in self.observation_space.items()
        }

    def get_state(self) -> Any:
        """Tell the bound."""
        return self.low

    def set_state(self, state: Any) -> None:
        """Set the bound."""
        self.low = state


@pytest.mark.parametrize("kind", ["dummy", "2"])
def test_dicts_and_what_the_next_reset_takes(make: Any, kind: str) -> None:
    """Stacks and moments by key; seeds and options that were set for a reset to come."""
    vec_env, other = (VecNormalize(VecFrameStack(make(Pair, kind), 2)) for _ in range(2))
    vec_env.seed(8)
    vec_env.set_options({"low": 0.5})
    restore_vec_state(other, through_file(take_vec_state(vec_env)))
    assert bits(other.reset()) == bits(vec_env.reset())
    actions = actions_for(vec_env, 40)
    advance(vec_env, actions[:20])
    restore_vec_state(other, through_file(take_vec_state(vec_env)))
    assert advance(other, actions[20:]) == advance(vec_env, actions[20:])


class Gambler(Pair):
    """Draws from the process's generators, as environments should not."""

    def draw(self) -> dict[str, np.ndarray]:
        """Return numbers of both."""
        noise = np.random.uniform(size=2)  # noqa: NPY002
        return {"a": noise.astype(np.float32), "b": np.array([random.random()], np.float32)}


def test_global_generators_of_workers_continue(make: Any) -> None:
    """In as many workers of as many environments; elsewhere that is rejected, before anything is changed."""
    vec_env, other = make(Gambler, "2", 4), make(Gambler, "2", 4)
    vec_env.reset()
    state = through_file(take_vec_state(vec_env))
    actions = actions_for(vec_env, 30)
    expected = advance(vec_env, actions)
    for _ in range(2):
        restore_vec_state(other, state)
        assert advance(other, actions) == expected
    for elsewhere in (make(Gambler, "dummy", 4), make(Gambler, "3", 4)):
        with pytest.raises(StateUnavailableError, match=r"workers of \[2, 2\] environments"):
            restore_vec_state(elsewhere, state)


def kill(vec_env: VecEnv, worker: int) -> None:
    """End a worker as the out-of-memory killer does."""
    pid = vec_env.unwrapped._pool.workers[worker]._pid
    os.kill(pid, signal.SIGKILL)


@pytest.mark.filterwarnings(REPLACED)
def test_a_worker_that_was_just_replaced(make: Any) -> None:
    """The restored one reports the cut too, and its next replacement has new seeds; no other ones can."""
    task = partial(gym.make, "Pendulum-v1")
    vec_env, other = make(task, "2", 4), make(task, "2", 4)
    vec_env.seed(0)
    vec_env.reset()
    actions = actions_for(vec_env, 20)
    advance(vec_env, actions[:5])
    kill(vec_env, 1)
    state = through_file(take_vec_state(vec_env))
    assert vec_env.replacements == 1
    restore_vec_state(other, state)
    expected = advance(vec_env, actions[5:])
    assert "worker_replaced" in repr(expected[0])
    assert advance(other, actions[5:]) == expected
    assert other.replacements == 1
    seeds = vec_env.get_attr("np_random_seed", indices=[2, 3])
    kill(other, 1)
    assert not set(seeds) & set(other.get_attr("np_random_seed", indices=[2, 3]))
    with pytest.raises(StateUnavailableError, match=r"workers of \[2, 2\] environments"):
        restore_vec_state(make(task, "dummy", 4), state)


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.parametrize("kind", ["dummy", "2"])
def test_a_worker_that_dies_after_the_restoration(make: Any, kind: str) -> None:
    """Its transitions end at the observations before the state was taken, and new seeds are derived."""
    task = partial(gym.make, "Pendulum-v1")
    vec_env, other = make(task, kind, 4), make(task, "2", 4)
    vec_env.seed(0)
    vec_env.reset()
    actions = actions_for(vec_env, 6)
    for action in actions[:5]:
        observations, *_ = vec_env.step(action)
    restore_vec_state(other, take_vec_state(vec_env))
    kill(other, 0)
    after, _, dones, infos = other.step(actions[5])
    assert dones.tolist() == [True, True, False, False]
    assert bits([info["terminal_observation"] for info in infos[:2]]) == bits(list(observations[:2]))
    seeds = other.get_attr("np_random_seed")
    assert seeds[2:] == [2, 3]
    assert not {0, 1} & set(seeds[:2])
    assert bits(vec_env.step(actions[5])[0][2:]) == bits(after[2:])


@pytest.mark.parametrize("death", [False, True])
@pytest.mark.filterwarnings(REPLACED)
def test_a_worker_that_dies_before_is_no_hindrance(make: Any, death: bool) -> None:
    """A worker that is dead when the state comes is replaced and then restored, as others are."""
    task = partial(gym.make, "CartPole-v1")
    vec_env, other = make(task, "2", 4), make(task, "2", 4)
    vec_env.seed(0)
    for each in (vec_env, other):
        each.reset()
    actions = actions_for(vec_env, 30)
    if death:
        kill(other, 1)
    restore_vec_state(other, take_vec_state(vec_env))
    assert advance(other, actions) == advance(vec_env, actions)


class Silent(VecEnvWrapper):
    """Says nothing of what it keeps."""

    def reset(self) -> Any:
        """Reset."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step."""
        return self.venv.step_wait()


class Counting(Silent):
    """Adds to rewards how many steps were taken, and tells so."""

    count = 0

    def step_wait(self) -> Any:
        """Step and count."""
        self.count += 1
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards + self.count, dones, infos

    def get_state(self) -> Any:
        """Tell the count."""
        return self.count

    def set_state(self, state: Any) -> None:
        """Set the count."""
        self.count = state


def test_wrappers_may_tell_their_state_themselves(make: Any) -> None:
    """By the methods that environments have, too."""
    vec_env, other = (Counting(make("CartPole-v1")) for _ in range(2))
    vec_env.reset()
    actions = actions_for(vec_env, 30)
    advance(vec_env, actions[:9])
    restore_vec_state(other, through_file(take_vec_state(vec_env)))
    assert advance(other, actions[9:]) == advance(vec_env, actions[9:])


@pytest.mark.parametrize("kind", ["dummy", "workers"])
def test_unknown_environments_are_rejected_and_continue(make: Any, kind: str) -> None:
    """The error names them, from workers as well, and is of the one type that callers await."""
    vec_env = make("CliffWalking-v1", kind)
    vec_env.reset()
    with pytest.raises(StateUnavailableError, match=r"CliffWalkingEnv.*get_state\(\)"):
        take_vec_state(vec_env)
    assert vec_env.step(np.zeros(N_ENVS, np.int64))[0].shape == (N_ENVS,)


def test_unknown_vector_environments_are_rejected(make: Any) -> None:
    """A wrapper, and a vector environment that hides its environments."""
    with pytest.raises(StateUnavailableError, match=r"Silent.*get_state\(\)"):
        take_vec_state(Silent(make("CartPole-v1")))
    hidden = GymnasiumVecEnv(gym.make_vec("CartPole-v1", 2))
    with pytest.raises(StateUnavailableError, match=r"GymnasiumVecEnv.*vec_env='dummy'"):
        take_vec_state(hidden)
    hidden.close()


def test_a_monitor_with_a_file_is_rejected(tmp_path: Any) -> None:
    """Its lines of lost steps would stay."""
    vec_env = VecMonitor(DummyVecEnv([partial(gym.make, "CartPole-v1")]), str(tmp_path / "log"))
    with pytest.raises(StateUnavailableError, match="filename=None"):
        take_vec_state(vec_env)
    vec_env.close()


@pytest.mark.parametrize("kind", ["dummy", "workers"])
def test_a_state_of_another_build_is_rejected(make: Any, kind: str) -> None:
    """Another number, other wrappers, another task: each with what was expected and what came."""
    state = take_vec_state(make("CartPole-v1", kind))
    with pytest.raises(ValueError, match=r"of 2 environments.*got one of 3"):
        restore_vec_state(make("CartPole-v1", kind, 2), state)
    with pytest.raises(ValueError, match="VecNormalize"):
        restore_vec_state(VecNormalize(make("CartPole-v1", kind)), state)
    with pytest.raises(ValueError, match=r"PendulumEnv, got one of.*CartPoleEnv"):
        restore_vec_state(make("Pendulum-v1", kind), state)
