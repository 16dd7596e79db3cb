"""Tensor environments through SB3's interface: every step is that of DummyVecEnv, and runs resume exactly."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from registries import restored_registries
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import Tensor

from agents import TRPO
from envs import TensorTask, TensorVecEnv, make_tensor_env, make_vec_env, register_tensor_env
from envs.state.vec_env_state import restore_vec_state, take_vec_state
from experiments.settings.arguments import Arguments
from experiments.train import main

N_ENVS = 3


def tensor(name: str = "CartPole-v1", **kwargs: Any) -> Any:
    """Return the environments through SB3's interface."""
    return make_vec_env(name, N_ENVS, seed=0, vec_env="tensor", env_kwargs={"device": "cpu", **kwargs})


class Follower(gym.Wrapper):
    """One of Gymnasium's environments, whose episodes start where those of a tensor environment do."""

    def __init__(self, env: gym.Env, vec_env: TensorVecEnv, index: int) -> None:
        super().__init__(env)
        self.vec_env, self.index = vec_env, index

    def reset(self, **kwargs: Any) -> Any:
        """Take the state that the tensor environment has now."""
        _, info = self.env.reset(**kwargs)
        env: Any = self.vec_env.tensor_env
        self.unwrapped.state = env.state[:, self.index].numpy().copy()
        return env.observe(env.state)[self.index].numpy().astype(np.float32), info


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_every_step_is_that_of_dummy_vec_env(name: str) -> None:
    """Observations, rewards, dones and infos, key by key, over resets and time limits."""
    ours = tensor(name, dtype=torch.float64, max_episode_steps=15)
    theirs = DummyVecEnv(
        [lambda i=i: Monitor(Follower(gym.make(name, max_episode_steps=15), ours, i)) for i in range(N_ENVS)]
    )
    np.testing.assert_allclose(ours.reset(), theirs.reset())
    ours.action_space.seed(1)
    ended = 0
    for _ in range(60):
        actions = np.stack([ours.action_space.sample() for _ in range(N_ENVS)])
        got, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(got[:3], expected[:3], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
            assert one.dtype == other.dtype and one.shape == other.shape
        for info, other_info in zip(got[3], expected[3], strict=True):
            assert info.keys() == other_info.keys()
            assert info["TimeLimit.truncated"] == other_info["TimeLimit.truncated"]
            if "episode" in info:
                ended += 1
                assert info["episode"]["l"] == other_info["episode"]["l"]
                assert info["episode"]["r"] == pytest.approx(other_info["episode"]["r"], rel=1e-5)
                last = info["terminal_observation"], other_info["terminal_observation"]
                np.testing.assert_allclose(*last, rtol=1e-6, atol=1e-7)
                assert last[0].dtype == last[1].dtype
    assert ended >= 12


def walk(env: VecEnv, steps: int = 30) -> list[np.ndarray]:
    """Return what some steps return."""
    rng, seen = np.random.default_rng(0), []
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(rng.integers(2, size=env.num_envs))
        episodes = [info["episode"]["r"] for info in infos if "episode" in info]
        last = [info["terminal_observation"] for info in infos if "episode" in info]
        seen += [observations, rewards, dones, np.array(episodes), np.array(last)]
    return seen


def test_seeds() -> None:
    """A seed applies at construction, and after `seed` at the next reset; None is NumPy's global state."""
    env = tensor()
    first = env.reset()
    assert not np.array_equal(env.reset(), first)
    env.seed(0)
    seeded = env.reset()
    again = tensor()
    again.seed(0)
    np.testing.assert_array_equal(again.reset(), seeded)
    starts = []
    for state in (0, 0, 1):
        np.random.seed(state)  # noqa: NPY002 (SB3 seeds this one)
        starts.append(make_vec_env("CartPole-v1", 2, vec_env="tensor").reset())
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])


def test_a_restored_state_continues_bit_for_bit() -> None:
    """In the middle of episodes, whose returns go on too, and around SB3's wrappers."""
    env, other = (VecNormalize(tensor()) for _ in range(2))
    env.reset()
    walk(env)
    state = take_vec_state(env)
    expected = walk(env)
    restore_vec_state(other, state)
    for left, right in zip(walk(other), expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_agent_learns_and_is_evaluated(recwarn: pytest.WarningsRecorder) -> None:
    """Equal seeds give equal agents; episodes reach SB3's statistics, and its Monitor is found."""
    weights = []
    for _ in range(2):
        env = make_vec_env("CartPole-v1", 4, vec_env="tensor", env_kwargs={"device": "cpu"})
        agent = TRPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=1, device="cpu").learn(256)
        weights.append([parameter.detach().numpy() for parameter in agent.policy.parameters()])
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert 100 < sum(episode["l"] for episode in agent.ep_info_buffer) <= 256
    returns, lengths = evaluate_policy(agent, env, 5, return_episode_rewards=True)
    assert returns == lengths
    assert not [warning for warning in recwarn if "Monitor" in str(warning.message)]


def test_attributes_and_frames() -> None:
    """Those of all environments are readable; what would change single ones says what to use."""
    env = tensor(render_mode="rgb_array", max_episode_steps=9)
    assert isinstance(env, TensorVecEnv)
    assert [spec.id for spec in env.get_attr("spec", [0, 2])] == ["CartPole-v1"] * 2
    assert env.get_attr("spec", 0)[0].max_episode_steps == 9
    assert gym.spec("CartPole-v1").max_episode_steps == 500
    assert env.get_attr("num_envs") == [3] * 3
    assert env.has_attr("generator") and not env.has_attr("gravity")
    assert env.env_is_wrapped(Monitor, 1) == [True]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    for touch in (lambda: env.set_attr("device", 1), lambda: env.env_method("observe")):
        with pytest.raises(NotImplementedError, match="vec_env='dummy'"):
            touch()
    env.reset()
    env.tensor_env.state[0, 1] = 1.0  # a cart on the right
    frames = env.get_images()
    assert [frame.shape for frame in frames] == [(400, 600, 3)] * 3
    assert not np.array_equal(frames[0], frames[1])
    assert np.array_equal(env.env_method("render", indices=1)[0], frames[1])
    assert tensor().get_images() == [None] * 3
    env.set_options({"low": 0})
    with pytest.raises(ValueError, match="env_kwargs"):
        env.reset()
    env.close()


@pytest.mark.parametrize("name", ["Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "Catch-v0"])
def test_frames_are_gymnasiums(name: str) -> None:
    """Every task that Gymnasium renders."""
    env = make_tensor_env(name, 2, seed=0, render_mode="rgb_array")
    env.reset()
    frame = env.render(1)
    assert frame is not None and frame.dtype == np.uint8 and frame.shape[2] == 3 and np.ptp(frame) > 100


def test_arguments_that_do_not_apply() -> None:
    """The error says which, before anything is built."""
    with pytest.raises(ValueError, match="vec_env='tensor' takes env_id, n_envs, seed and env_kwargs"):
        make_vec_env("CartPole-v1", 2, vec_env="tensor", monitor_dir="x")


class Walk(TensorTask):
    """A walk on the integers that is registered nowhere else; it ends at 3."""

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        box = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        super().__init__(num_envs, box, gym.spaces.Discrete(2), max_episode_steps=20, **kwargs)

    def initial_states(self) -> Tensor:
        """Begin at 0."""
        return torch.zeros(1, self.num_envs, dtype=self.dtype, device=self.device)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Go left (0) or right (1)."""
        states = self.state + (2 * actions - 1)
        return states, states[0].clone(), states[0] == 3

    def observe(self, states: Tensor) -> Tensor:
        """Return the place."""
        return states.T


def test_a_task_of_its_own_is_one_of_gymnasiums_too() -> None:
    """So that agents can be evaluated; the ends are its own."""
    with restored_registries():
        register_tensor_env("Walk-v0", Walk)
        with pytest.raises(ValueError, match="has a tensor version already"):
            register_tensor_env("Walk-v0", Walk)
        env = gym.make("Walk-v0")
        env.reset(seed=0)
        steps = [env.step(1)[:4] for _ in range(3)]
        assert steps == [([1], 1, False, False), ([2], 2, False, False), ([3], 3, True, False)]
        env.reset()
        flags = [env.step(i % 2)[2:4] for i in range(20)]
        assert flags == [(False, False)] * 19 + [(False, True)]
        vec_env: Any = make_vec_env("Walk-v0", 2, vec_env="tensor")
        assert isinstance(vec_env.tensor_env, Walk)
        assert vec_env.get_attr("spec")[0].id == "Walk-v0"
    assert "Walk-v0" not in gym.registry


def advanced(states: Any, rewards: Any, ends: Any) -> Any:
    """Return a method `advance` that gives functions of what Walk's gives."""

    def advance(self: Any, actions: Tensor) -> Any:
        results = Walk.advance(self, actions)
        return states(results[0]), rewards(results[1]), ends(results[2])

    return advance


def same(tensor: Tensor) -> Tensor:
    """Return the tensor."""
    return tensor


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observe": lambda self, states: states}, r"observations \(3, 1\) from Wrong.observe, got \(1, 3\)"),
        ({"observe": lambda self, states: states[0, :1]}, r"observations \(3, 1\) .* got \(1,\)"),
        (
            {"initial_states": lambda self: torch.zeros(3, 1)},
            r"states \(3, 3\) from Wrong.init.* got \(3, 1\)",
        ),
        ({"advance": advanced(lambda x: x[:, :1], same, same)}, r"states \(1, 3\) .* got \(1, 1\)"),
        ({"advance": advanced(same, lambda x: x[None], same)}, r"rewards \(3,\) .* got \(1, 3\)"),
        ({"advance": advanced(same, lambda x: -1.0, same)}, r"rewards \(3,\) .* got float"),
        ({"advance": advanced(same, same, torch.any)}, r"terminated \(3,\) .* got \(\)"),
        ({"advance": advanced(same, same, Tensor.float)}, r"terminated of torch.bool .* got torch.float32"),
    ],
)
def test_wrong_results_of_a_task_are_rejected(wrong: dict[str, Any], message: str) -> None:
    """A shape that would broadcast, too; the error names the function."""
    with pytest.raises(ValueError, match=message):
        env = TensorVecEnv(type("Wrong", (Walk,), wrong)(3))
        env.reset()
        env.step(np.zeros(3, np.int64))


def test_wrong_arguments_of_a_task_are_rejected() -> None:
    """No environments, a type that NumPy does not have or that is none, and observations of parts."""
    for n_envs in (0, -1):
        with pytest.raises(ValueError, match=f"expected num_envs >= 1, got {n_envs}"):
            Walk(n_envs)
    for dtype in (torch.bfloat16, torch.int32, "float64"):
        with pytest.raises(ValueError, match=f"expected dtype torch.float32 or torch.float64, got .*{dtype}"):
            Walk(2, dtype=dtype)
    walk = Walk(2)
    walk.observation_space = gym.spaces.Dict({"place": walk.observation_space})
    with pytest.raises(ValueError, match="must be one tensor, got the space Dict"):
        TensorVecEnv(walk)


def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    """Trained on the command line, in two parts: the same log and the same evaluation."""
    settings = ("n_steps=16", "n_critic_updates=1", "batch_size=64")
    common = {"device": "cpu", "vec_env": "tensor", "n_envs": 8, "episodes": 2, "set": (settings,)}
    folders = [tmp_path / name / "CartPole-v1" / "trpo" / "seed-0" for name in ("whole", "parts")]
    assert main(Arguments(out=tmp_path / "whole", steps=512, **common)) == 0
    assert main(Arguments(out=tmp_path / "parts", steps=256, **common)) == 0
    assert main(Arguments(resume=folders[1], steps=512)) == 0
    logs = [pd.read_csv(folder / "progress.csv") for folder in folders]
    times = ["time/fps", "time/time_elapsed", "time/seconds"]
    pd.testing.assert_frame_equal(*(log.drop(columns=times).sort_index(axis=1) for log in logs))
    whole, parts = (json.loads((folder / "evaluation.json").read_text()) for folder in folders)
    assert whole == parts
    assert "vec_env: tensor" in (folders[0] / "config.yaml").read_text()
