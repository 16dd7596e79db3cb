"""What passes between a vector environment and its environments: actions, results, infos, attributes."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from generated_envs import AnyEnv
from gymnasium import spaces
from spaces_env import discrete
from stable_baselines3.common.vec_env import VecEnv

from agents import TRPO
from envs import GymnasiumVecEnv, InvalidResultError, make_vec_env
from envs.workers.worker_error import WorkerError

KINDS = ["dummy", "workers"]
ALL_KINDS = [*KINDS, "subproc"]


def make(kind: str, n_envs: int = 2, **kwargs: Any) -> VecEnv:
    """Return environments of `AnyEnv`, with `kwargs`, after a reset."""
    vec_env = make_vec_env(AnyEnv, n_envs, seed=0, vec_env=kind, env_kwargs=kwargs)
    vec_env.reset()
    return vec_env


def act(vec_env: VecEnv) -> Any:
    """Step with zeros."""
    return vec_env.step(np.zeros((vec_env.num_envs, *vec_env.action_space.shape), vec_env.action_space.dtype))


@pytest.mark.parametrize("wrapper_class", [None, gym.wrappers.OrderEnforcing])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_attributes_are_set_where_the_environment_reads_them(kind: str, wrapper_class: Any) -> None:
    """Through every wrapper; a new one reaches the environment, one of a wrapper stays there."""
    vec_env = make_vec_env(AnyEnv, 2, vec_env=kind, wrapper_class=wrapper_class)
    vec_env.reset()
    vec_env.set_attr("reward", 5.0)
    vec_env.set_attr("reward", 7.0, indices=1)
    vec_env.set_attr("bonus", 0.25, indices=[0])
    assert vec_env.get_attr("reward") == [5.0, 7.0]
    assert act(vec_env)[1].tolist() == [5.25, 7.0]
    vec_env.set_attr("total_steps", 70)  # of Monitor
    act(vec_env)
    assert vec_env.get_attr("total_steps") == [71, 71]
    assert vec_env.env_method("get_reward") == [5.25, 7.0]
    vec_env.close()


REWARDS = [
    np.float32(0.5),
    np.float64(0.5),
    np.array(0.5),
    torch.tensor(0.5),
    torch.tensor(0.5, requires_grad=True),
]
REWARDS += [True, np.True_, 1, np.int8(1), torch.tensor(1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: f"{type(reward).__name__}-{reward}")
def test_any_scalar_is_a_reward(kind: str, reward: Any) -> None:
    """Of NumPy, torch and Python, to the learner and in the episode's return."""
    vec_env = make(kind, reward=reward, length=2)
    act(vec_env)
    _, rewards, _, infos = act(vec_env)
    assert rewards.dtype == np.float32 and rewards.tolist() == [float(reward)] * 2
    assert [info["episode"]["r"] for info in infos] == [2 * float(reward)] * 2
    vec_env.close()


WRONG = {
    "array": ({"reward": np.ones(1)}, r"reward must be one number, got array\(\[1\.\]\).*shape \(1,\)"),
    "tensor": ({"reward": torch.ones(1)}, r"reward must be one number.*shape \(1,\)"),
    "none": ({"reward": None}, "reward must be one number, got None"),
    "text": ({"reward": "1.0"}, "reward must be one number, got '1.0'"),
    "list": ({"reward": [1.0]}, "reward must be one number"),
    "terminated": ({"terminated": None}, "terminated must be one bool, got None"),
    "truncated": ({"truncated": np.zeros(2, bool)}, "truncated must be one bool"),
    "info": ({"info": [1]}, "the info must be a dict, got list"),
    "result": ({"values": 4}, r"it returned 4 values; return \(observation, reward, term"),
    "shape": ({"observation": np.zeros(1, np.float32)}, r"has shape \(1,\), its space \(3,\)"),
    "dtype": ({"observation": np.full(3, "x")}, "of <U1 and would change as float32"),
    "nothing": ({"observation": None}, r"shape \(\), its space \(3,\)"),
    "integer": (
        {"observation_space": spaces.Box(0, 9, (1,), np.int64), "observation": np.full(1, 3.7)},
        "of float64 and would change as int64",
    ),
    "dict": (
        {"observation_space": spaces.Dict({"a": spaces.Discrete(2)}), "observation": {"b": 0}},
        "'a' is missing",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_result_names_environment_step_and_part(kind: str, name: str) -> None:
    """At the step at which it comes, of the environment that returned it."""
    wrong, message = WRONG[name]
    space = {key: value for key, value in wrong.items() if key == "observation_space"}
    vec_env = make(kind, **space)
    act(vec_env)
    for attribute, value in wrong.items():
        if attribute not in space:
            vec_env.set_attr(attribute, value, indices=1)
    with pytest.raises((InvalidResultError, WorkerError), match=message) as caught:
        act(vec_env)
    assert "step() of environment 1" in str(caught.value) and "at step 2 of its episode" in str(caught.value)
    vec_env.close()


def test_an_invalid_reset_and_an_exception_name_the_environment() -> None:
    """An exception of the environment keeps its type, and has a note."""
    vec_env = make("dummy")
    vec_env.set_attr("values", 1, indices=1)
    with pytest.raises(InvalidResultError, match=r"reset\(\) of environment 1.*returned a"):
        vec_env.reset()
    vec_env = make("dummy")
    vec_env.set_attr("reward", lambda: 1 / 0, indices=1)
    with pytest.raises(ZeroDivisionError) as caught:
        act(vec_env)
    assert "step() of environment 1" in caught.value.__notes__[0]


STATISTICS = {"r": 1.0, "l": 2, "t": 3}  # as Gymnasium's RecordEpisodeStatistics leaves them


@pytest.mark.covering(1)
@pytest.mark.parametrize("own", [7, {"r": "text"}, {"number": 3}, None, "last", STATISTICS])
@pytest.mark.parametrize("kind", KINDS)
def test_an_info_of_the_name_of_monitors_does_not_break_the_log(kind: str, own: Any) -> None:
    """An environment's own "episode" has another name, or none if it is Monitor's own statistics."""
    vec_env = make(kind, info={"episode": own, "more": 1}, length=3)
    for _ in range(2):
        infos = act(vec_env)[3]
        assert all("episode" not in info and info["more"] == 1 for info in infos)
        kept = {} if own == STATISTICS else {"env_episode": own}
        assert all({k: v for k, v in info.items() if k == "env_episode"} == kept for info in infos)
    assert act(vec_env)[3][0]["episode"]["l"] == 3
    agent = TRPO("MlpPolicy", vec_env, n_steps=16, batch_size=16, seed=0, device="cpu")
    agent.learn(64)
    assert {episode["l"] for episode in agent.ep_info_buffer} == {3}
    vec_env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_may_return_one_dict_for_ever(kind: str) -> None:
    """Neither Monitor's entry nor the last observation stays in it."""
    vec_env = make(kind, length=2, same_info=True)
    seen = [sorted(act(vec_env)[3][0]) for _ in range(4)]
    assert seen[::2] == [["TimeLimit.truncated"]] * 2
    assert seen[1::2] == [["TimeLimit.truncated", "episode", "terminal_observation"]] * 2
    vec_env.close()


def test_gymnasium_vectors_keep_monitors_entry_free() -> None:
    """As the environments of `make_vec_env`."""
    vec_env = GymnasiumVecEnv(gym.vector.SyncVectorEnv([lambda: AnyEnv(info={"episode": 7}, length=2)] * 2))
    vec_env.reset()
    assert act(vec_env)[3][0] == {"env_episode": 7, "TimeLimit.truncated": False}
    assert act(vec_env)[3][0]["episode"]["l"] == 2


def generator() -> Any:
    """Return what neither pickles nor copies."""
    return (i for i in range(3))


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("build", [threading.Lock, generator], ids=["lock", "generator"])
def test_what_cannot_be_copied_is_left_out_of_the_info(kind: str, build: Callable[[], Any]) -> None:
    """With one warning, which names environment, key and step; the rest arrives, of resets too."""
    vec_env = make(kind, length=3)
    vec_env.env_method("put", "handle", build.__name__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(7):
            infos = act(vec_env)[3]
            assert all("handle" not in info and info["nested"] == {"a": [1]} for info in infos)
    messages = [str(each.message) for each in caught]
    assert len(messages) == (2 if kind == "dummy" else 0)  # workers print theirs
    if messages:
        assert "environment 0" in messages[0] and "info['handle']" in messages[0] and "step 1" in messages[0]
    vec_env.close()


INTEGERS = {
    "int64": spaces.Box(0, 20, (2,), np.int64),
    "int8": spaces.Box(-3, 3, (2, 2), np.int8),
    "uint8": spaces.Box(0, 255, (), np.uint8),
    "whole": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "one-sided": spaces.Box(np.array([0, 5]), np.array([1, 2**40]), dtype=np.int64),
    "binary": spaces.MultiBinary(3),
    "multi": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "discrete": discrete(3, np.int32),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", INTEGERS)
def test_integer_actions_reach_the_environment_as_integers(kind: str, name: str) -> None:
    """Rounded, within the bounds, of the space's dtype, however the learner stores them."""
    space = INTEGERS[name]
    vec_env = make(kind, action_space=space)
    shape = (2, *space.shape)
    for value in (0.0, 1.7, 3.7, -9.2, 1e30, -np.inf, np.inf):
        if not isinstance(space, spaces.Box) and not 0 <= value <= 1:
            continue
        for dtype in (np.float32, np.float64):
            vec_env.step(np.full(shape, value, dtype))
            for received in vec_env.get_attr("received"):
                assert space.contains(received), received
                assert received.dtype == space.dtype
    space.seed(0)
    actions = [space.sample() for _ in range(2)]
    vec_env.step(np.array(actions).astype(np.int64))
    for received, action in zip(vec_env.get_attr("received"), actions, strict=True):
        assert space.contains(received) and np.array_equal(received, action)
    vec_env.close()


def test_rounding_is_to_the_nearest() -> None:
    """And floats of a float Box are the learner's own."""
    vec_env = make("dummy", action_space=spaces.Box(0, 20, (2,), np.int64))
    vec_env.step(np.array([[3.7, 3.2], [19.6, 20.4]]))
    assert [received.tolist() for received in vec_env.get_attr("received")] == [[4, 3], [20, 20]]
    vec_env = make("dummy", action_space=spaces.Box(-1, 1, (2,), np.float32))
    vec_env.step(np.full((2, 2), 0.1))
    assert vec_env.get_attr("received")[0].dtype == np.float64


UNSUPPORTED = {
    "nested": spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
    "text": spaces.Text(5),
    "graph": spaces.Graph(spaces.Box(0, 1, (2,)), None),
    "sequence": spaces.Sequence(spaces.Discrete(2)),
    "one_of": spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
    "in a tuple": spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]),
    "empty": spaces.Dict({}),
}


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_observations_are_rejected_by_name(kind: str, name: str) -> None:
    """Before a vector environment is built."""
    with pytest.raises(ValueError, match=r"observation_space.*(use a|give it)"):
        make_vec_env(AnyEnv, 2, vec_env=kind, env_kwargs={"observation_space": UNSUPPORTED[name]})


@pytest.mark.parametrize("missing", ["observation_space", "action_space"])
def test_a_missing_space_is_named(missing: str) -> None:
    """And what to do about it."""

    def build() -> gym.Env:
        env = AnyEnv()
        delattr(env, missing)
        return env

    with pytest.raises(ValueError, match=f"has no {missing}: set it"):
        make_vec_env(build)
