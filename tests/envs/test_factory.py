"""The factory of vector environments: what it builds, and what its errors say."""

import importlib
import inspect
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

import envs
from envs import MissingExtraError, UnknownEnvironmentError, make_vec_env, register_vec_env
from envs.factory import VEC_ENVS, choose_vec_env
from envs.single_env import environment_spec
from envs.workers.worker_vec_env import WorkerVecEnv


def rollout(vec_env: VecEnv, steps: int = 5) -> np.ndarray:
    """Return the observations (steps + 1, n_envs, ...) under the zero action."""
    observations = [vec_env.reset()]
    actions = np.zeros((vec_env.num_envs, *vec_env.action_space.shape))
    for _ in range(steps):
        observations.append(vec_env.step(actions)[0])
    vec_env.close()
    return np.stack(observations)


@pytest.mark.parametrize("args, kwargs", [((3,), {}), ((), {"n_envs": 3})])
def test_builds_monitored_environments_in_one_process(args, kwargs):
    """``n_envs`` works positionally and by name, and each environment has its Monitor."""
    vec_env = make_vec_env("CartPole-v1", *args, **kwargs)
    assert isinstance(vec_env, DummyVecEnv)
    assert vec_env.num_envs == 3
    assert all(is_wrapped(env, Monitor) for env in vec_env.envs)
    vec_env.close()


def test_no_render_mode_unless_asked_for():
    """Training environments have no render mode; ``env_kwargs`` can set one."""
    assert make_vec_env("CartPole-v1").render_mode is None
    asked = make_vec_env("CartPole-v1", env_kwargs={"render_mode": "rgb_array"})
    assert asked.render_mode == "rgb_array"


def test_env_kwargs_reach_the_constructor_and_gymnasium():
    """``env_kwargs`` holds constructor arguments and those of ``gymnasium.make``, unchanged."""
    env_kwargs = {"target": (3.0,), "max_episode_steps": 7}
    vec_env = make_vec_env("GaussianBandit-v0", env_kwargs=env_kwargs)
    assert vec_env.get_attr("target")[0] == [3.0]
    assert vec_env.get_attr("spec")[0].max_episode_steps == 7
    assert env_kwargs == {"target": (3.0,), "max_episode_steps": 7}


def test_same_seed_same_rollout_and_environments_differ():
    """A seed fixes the rollout; environments of one vector, and other seeds, differ."""
    first, second, other = (rollout(make_vec_env("LinearQuadratic-v0", 2, seed=seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:, 0], first[:, 1])


@pytest.mark.parametrize("kind, vec_env_class", [("subproc", SubprocVecEnv), ("workers", WorkerVecEnv)])
def test_processes_give_the_same_rollout_as_one_process(kind, vec_env_class):
    """Workers rebuild an environment that only the parent registered, to the same rollout."""
    vec_env = make_vec_env("LinearQuadratic-v0", 2, seed=7, vec_env=kind)
    assert isinstance(vec_env, vec_env_class)
    expected = rollout(make_vec_env("LinearQuadratic-v0", 2, seed=7, vec_env="dummy"))
    assert np.array_equal(rollout(vec_env), expected)


def test_time_limit_is_reported_as_truncation():
    """An endless task ends by its registered limit, with SB3's two truncation entries."""
    vec_env = make_vec_env("TwoStateChain-v0")
    vec_env.reset()
    for _ in range(99):
        assert not vec_env.step([0])[2][0]
    _, _, dones, infos = vec_env.step([0])
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"] == 0
    assert infos[0]["episode"]["r"] == 100


@pytest.mark.parametrize(
    "env_id, nearest",
    [
        ("Hopper-v9", "Hopper-v5"),
        ("hopper-v5", "Hopper-v5"),
        ("Hoper-v5", "Hopper-v5"),
        ("Hopper", "Hopper-v5"),
        ("Hopper-v5 ", "Hopper-v5"),
        ("HopperV5", "Hopper-v5"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("phys2/CartPole-v1", "phys2d/CartPole-v1"),
        ("LinearQuadratic-v1", "LinearQuadratic-v0"),
    ],
)
def test_unknown_id_names_the_nearest(env_id, nearest, monkeypatch):
    """A wrong id is an error that names the nearest id, before anything is built."""
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("something was built"))
    with pytest.raises(UnknownEnvironmentError, match=f"mean '{nearest}'") as raised:
        make_vec_env(env_id)
    assert isinstance(raised.value, ValueError)
    assert repr(env_id) in str(raised.value)


@pytest.mark.parametrize("env_id", ["", "zzzzqqqq-v0", "no_such_module:CartPole-v1", "a/b/c"])
def test_unknown_id_with_nothing_near(env_id):
    """An id that resembles nothing, or has a missing module, is the same typed error."""
    with pytest.raises(UnknownEnvironmentError, match="expected a registered environment id"):
        environment_spec(env_id)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "gymnasium:CartPole-v1"])
def test_environment_spec_builds_nothing(env_id, monkeypatch):
    """A known id gives its specification and no environment."""
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("something was built"))
    assert environment_spec(env_id).id == "CartPole-v1"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"vec_env": "subprocess"}, r"did you mean 'subproc'\?"),
        ({"vec_env": "?"}, r"one of \['auto', 'dummy', 'envpool', 'subproc', 'tensor', 'workers'\]"),
        ({"vec_env": "EnvPool"}, r"did you mean 'envpool'\?"),
        ({"n_envs": 0}, "expected n_envs >= 1, got 0"),
        ({"n_envs": -2}, "expected n_envs >= 1, got -2"),
    ],
)
def test_wrong_argument_is_a_value_error(kwargs, message, monkeypatch):
    """A wrong argument is named, with what was expected, before anything is built."""
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=message):
        make_vec_env("CartPole-v1", **kwargs)


@pytest.mark.parametrize("vec_env", ["auto", "dummy", "subproc", "workers"])
@pytest.mark.parametrize("error", [gym.error.DependencyNotInstalled, ModuleNotFoundError])
@pytest.mark.parametrize(
    "env_id, fix",
    [
        ("Hopper-v5", r'pip install -c constraints.txt -e "\.\[mujoco\]"'),
        ("LunarLander-v3", r'pip install -c constraints.txt -e "\.\[box2d\]"'),
        ("CartPole-v1", "CartPole-v1 needs a package that is not installed"),
    ],
)
def test_missing_package_names_the_fix(env_id, fix, error, vec_env, monkeypatch):
    """An absent package is reported in this process, with the command that installs it."""

    def fail(*args, **kwargs):
        raise error("the original message")

    monkeypatch.setattr(gym, "make", fail)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(MissingExtraError, match=fix) as raised:
        make_vec_env(env_id, 2, vec_env=vec_env)
    assert "the original message" in str(raised.value)
    assert isinstance(raised.value, ImportError)


@pytest.mark.parametrize(
    "microseconds, n_envs, cores, expected",
    [
        (1000, 1, 8, "dummy (one environment)"),
        (1000, 8, 1, "dummy (one core)"),
        (5, 8, 2, "dummy (8 environments in this process; 5 µs per step)"),
        (100, 2, 2, "dummy (2 environments in this process; 100 µs per step)"),
        (1000, 2, 2, "workers (2 environments in 2 processes; 1000 µs per step)"),
        (100, 16, 2, "workers (16 environments in 2 processes; 100 µs per step)"),
        (100, 16, 32, "workers (16 environments in 16 processes; 100 µs per step)"),
    ],
)
def test_auto_shares_out_what_is_worth_it(microseconds, n_envs, cores, expected, monkeypatch):
    """Workers are chosen where the steps they take over last longer than waking them, and it says so."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(envs.vec_env_choice, "_time_step", lambda env: microseconds * 1e-6)
    assert str(choose_vec_env("LinearQuadratic-v0", n_envs)) == expected


def test_auto_times_the_environment():
    """A slow environment goes to workers, and ``auto`` builds them with the rollout of one process."""
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("on one core the answer is always the same")
    slow = {"id": "Slow-v0", "entry_point": SlowBandit, "max_episode_steps": 3}
    gym.register(**slow)
    try:
        vec_env = make_vec_env("Slow-v0", 2, seed=7, env_kwargs={"target": (0.5,)})
        assert isinstance(vec_env, WorkerVecEnv)
        assert vec_env.get_attr("target")[1] == [0.5]
        expected = rollout(make_vec_env("Slow-v0", 2, seed=7, env_kwargs={"target": (0.5,)}, vec_env="dummy"))
        assert np.array_equal(rollout(vec_env), expected)
    finally:
        del gym.registry["Slow-v0"]


class SlowBandit(envs.GaussianBandit):
    """A bandit whose arm takes two milliseconds to pull."""

    def step(self, action):
        """Wait."""
        time.sleep(2e-3)
        return super().step(action)


def test_envpool():
    """EnvPool's environments come from the same factory, with the same arguments, but never by ``auto``."""
    pytest.importorskip("envpool")
    vec_env = make_vec_env("CartPole-v1", 2, seed=3, vec_env="envpool", env_kwargs={"max_episode_steps": 5})
    assert isinstance(vec_env, envs.EnvPoolVecEnv)
    vec_env.reset()
    assert [vec_env.step([0, 1])[2].all() for _ in range(5)] == [False] * 4 + [True]
    vec_env.close()


@pytest.mark.parametrize("kind", ["auto", "dummy", "workers", "subproc"])
def test_a_function_or_class_in_place_of_an_id(kind):
    """As SB3's function accepts them, with the numbers of the registered task."""
    expected = rollout(make_vec_env("LinearQuadratic-v0", 3, seed=7, vec_env="dummy"))
    for build in (lambda: gym.make("LinearQuadratic-v0"), gym.spec("LinearQuadratic-v0").make):
        assert np.array_equal(rollout(make_vec_env(build, 3, 7, vec_env=kind)), expected)
    vec_env = make_vec_env(envs.GaussianBandit, 2, vec_env=kind, env_kwargs={"target": (3.0,)})
    assert vec_env.get_attr("target") == [[3.0]] * 2
    vec_env.close()


def test_one_given_environment():
    """``lambda: env`` is not built as a check, which would close it."""

    class Closing(envs.GaussianBandit):
        def close(self):
            raise RuntimeError("closed")

    env = Closing()
    assert make_vec_env(lambda: env).envs[0].unwrapped is env
    with pytest.raises(ValueError, match="same instance"):
        make_vec_env(lambda: env, 2, vec_env="dummy")


def test_arguments_are_those_of_sb3(tmp_path):
    """In its order, with its effects."""
    ours, theirs = (list(inspect.signature(f).parameters) for f in (make_vec_env, sb3_make_vec_env))
    assert ours[: len(theirs)] == theirs and set(ours) - set(theirs) == {"vec_env", "worker_timeout"}
    folder = str(tmp_path / "monitor")
    vec_envs = []
    for function in (make_vec_env, sb3_make_vec_env):
        vec_envs.append(
            function(
                lambda **kwargs: gym.make("LinearQuadratic-v0", **kwargs),
                2,
                3,
                start_index=5,
                monitor_dir=folder,
                wrapper_class=gym.wrappers.RescaleAction,
                env_kwargs={"max_episode_steps": 4},
                vec_env_cls=DummyVecEnv,
                monitor_kwargs={"allow_early_resets": False},
                wrapper_kwargs={"min_action": -1.0, "max_action": 1.0},
            )
        )
        assert sorted(path.name for path in (tmp_path / "monitor").iterdir()) == [
            "5.monitor.csv",
            "6.monitor.csv",
        ]
        assert all(is_wrapped(env, Monitor) for env in vec_envs[-1].envs)
    samples = [[env.unwrapped.action_space.sample().tolist() for env in vec_env.envs] for vec_env in vec_envs]
    assert samples[0] == samples[1]
    first, second = (rollout(vec_env) for vec_env in vec_envs)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"vec_env": "dummy", "vec_env_cls": DummyVecEnv}, "both vec_env='dummy' and vec_env_cls"),
        ({"vec_env_kwargs": {"timeout": 1}}, "add vec_env='workers'"),
        ({"vec_env": "envpool", "wrapper_class": Monitor}, "not wrapper_class; use vec_env='auto'"),
        ({"vec_env": "envpool", "env_id": envs.Catch}, "not a function; use vec_env='auto'"),
    ],
)
def test_arguments_that_do_not_apply_are_rejected(kwargs, message, monkeypatch):
    """Before anything is built."""
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=message):
        make_vec_env(**{"env_id": "CartPole-v1", **kwargs})


def test_the_timeout_of_workers_can_be_set():
    """By its own argument, whichever vector environment is chosen; of that class by its arguments."""
    for kwargs in ({"worker_timeout": 7.5}, {"vec_env_kwargs": {"timeout": 7.5}}):
        vec_env = make_vec_env("LinearQuadratic-v0", 2, vec_env="workers", **kwargs)
        assert [worker._timeout for worker in vec_env._pool.workers] == [7.5] * len(vec_env._pool.workers)
        vec_env.close()
    make_vec_env("LinearQuadratic-v0", 2, vec_env="dummy", worker_timeout=None).close()
    with pytest.raises(ValueError, match="timeout > 0"):
        make_vec_env("LinearQuadratic-v0", 2, vec_env="workers", worker_timeout=-1.0)


def test_auto_without_fork_is_dummy(monkeypatch):
    """As on Windows."""
    monkeypatch.delattr(os, "fork")
    assert isinstance(make_vec_env("LinearQuadratic-v0", 4), DummyVecEnv)


def test_import_needs_no_module_of_posix():
    """Which Windows lacks."""
    modules = dict.fromkeys(["fcntl", "pwd", "grp", "termios", "resource", "pty"])
    script = f"import sys; sys.modules |= {modules}; import envs; envs.make_vec_env('CartPole-v1').reset()"
    environ = {**os.environ, "PYTHONPATH": str(Path(envs.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)


def test_registered_vector_environments(monkeypatch):
    """A builder gets all arguments by one call; a name is taken once."""
    monkeypatch.setattr("envs.factory.VEC_ENVS", dict(VEC_ENVS))
    calls = []

    def build(env_id, n_envs, *, seed, env_kwargs):
        calls.append((env_id, n_envs, seed, env_kwargs))
        return DummyVecEnv([lambda: gym.make(env_id)] * n_envs)

    register_vec_env("mine", build)
    vec_env = make_vec_env("CartPole-v1", 2, seed=3, vec_env="mine", env_kwargs={"sutton_barto_reward": True})
    assert vec_env.num_envs == 2
    assert calls == [("CartPole-v1", 2, 3, {"sutton_barto_reward": True})]
    vec_env.close()
    with pytest.raises(ValueError, match="'dummy' is registered already"):
        register_vec_env("dummy", build)


def test_importing_twice_does_not_warn():
    """A second import registers nothing again, so that Gymnasium has nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(envs)
