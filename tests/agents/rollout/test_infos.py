"""Infos of any content, from vector environments that nothing checks (cases R6 and R17)."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from generated_envs import AnyEnv
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from agents import TRPO, NonFiniteError
from agents.rollout.infos import is_observation

INFOS = [
    {"episode": 7},
    {"episode": None},
    {"episode": "last"},
    {"episode": {}},
    {"episode": {"r": "x", "l": 1, "t": 0}},
    {"is_success": "yes"},
    {"is_success": np.zeros(2)},
    {"is_success": None},
    {"terminal_observation": 3},
    {"TimeLimit.truncated": "own"},
]


def agent_on(env: Any) -> TRPO:
    """Return a small agent."""
    return TRPO("MlpPolicy", env, n_steps=16, batch_size=16, n_critic_updates=1, seed=0, device="cpu")


@pytest.mark.covering(1)
@pytest.mark.parametrize("info", INFOS, ids=str)
@pytest.mark.parametrize("monitored", [True, False])
def test_an_environments_own_entries_do_not_stop_training(info: dict, monitored: bool) -> None:
    """Given to SB3's own DummyVecEnv; the log has Monitor's episodes only."""
    wrap = Monitor if monitored else lambda env: env
    env = DummyVecEnv([lambda: wrap(AnyEnv(info=info, length=5))])
    agent = agent_on(env).learn(64)
    assert [episode["l"] for episode in agent.ep_info_buffer] == [5] * (12 if monitored else 0)
    assert not agent.ep_success_buffer
    agent_on(AnyEnv(info=info, length=5)).learn(32)


@pytest.mark.parametrize("success", [True, np.True_, 1, 1.0, np.float32(1), torch.tensor(True)], ids=repr)
def test_a_success_of_any_type_is_logged(success: Any) -> None:
    """As a number."""
    agent = agent_on(AnyEnv(info={"is_success": success}, length=5)).learn(32)
    assert list(agent.ep_success_buffer) == [1.0] * 6
    assert {type(each) for each in agent.ep_success_buffer} == {float}


class Foreign(VecEnvWrapper):
    """A vector environment of somebody else, with these entries in the info of an episode's end."""

    entries: dict[str, Any]

    def reset(self) -> Any:
        """Reset."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in (infos[i] for i in np.flatnonzero(dones)):
            info.update(self.entries)
        return observations, rewards, dones, infos


def bootstrapped(**entries: Any) -> tuple[TRPO, np.ndarray]:
    """Return an agent after a rollout in which episodes end, and the rewards in its buffer."""
    env = Foreign(DummyVecEnv([lambda: AnyEnv(length=5)]))
    env.entries = entries
    agent = agent_on(env)
    with torch.no_grad():
        agent.policy.value_net.bias.fill_(100.0)
    agent.learn(16)
    return agent, agent.rollout_buffer.rewards.flatten()


LAST = np.zeros(3, np.float32)


@pytest.mark.parametrize("flag", [True, np.True_, np.array(True), 1, torch.tensor(True)], ids=repr)
def test_a_truncation_of_any_type_is_bootstrapped(flag: Any) -> None:
    """With the value of the last observation."""
    _, rewards = bootstrapped(**{"TimeLimit.truncated": flag, "terminal_observation": LAST})
    assert (rewards > 50).sum() == 3


@pytest.mark.parametrize("flag", ["own", None, np.zeros(2), [True], {}], ids=repr)
def test_what_is_no_truncation_is_not(flag: Any) -> None:
    """Even if its truth value has no meaning."""
    assert (bootstrapped(**{"TimeLimit.truncated": flag})[1] == 1).all()


@pytest.mark.parametrize(
    "last", [3, "x", [[1], [2, 3]], np.zeros(4), np.full(3, "x"), object, {"a": LAST}], ids=repr
)
def test_what_is_no_observation_is_ignored_with_a_warning(last: Any) -> None:
    """It cannot be bootstrapped from."""
    with pytest.warns(RuntimeWarning, match=r"terminal_observation'\] of environment 0 .* is ignored"):
        _, rewards = bootstrapped(**{"TimeLimit.truncated": True, "terminal_observation": last})
    assert (rewards == 1).all()


def test_an_observation_has_all_keys_of_its_space_and_no_others() -> None:
    """With one missing, nothing could be computed; others would not be noticed."""
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))})
    whole = {"a": np.int64(1), "b": np.zeros(2)}
    assert is_observation(whole, space)
    assert not is_observation({"a": np.int64(1)}, space) and not is_observation(whole | {"c": 1}, space)


def test_observations_of_a_dict_are_recognised() -> None:
    """By keys and shapes, without a warning."""
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))})
    env = DummyVecEnv([lambda: AnyEnv(observation_space=space, length=5, truncates=True)])
    agent = TRPO("MultiInputPolicy", env, n_steps=16, batch_size=16, seed=0, device="cpu")
    with torch.no_grad():
        agent.policy.value_net.bias.fill_(100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        agent.learn(16)
    assert (agent.rollout_buffer.rewards > 50).sum() == 3


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, IndexError])
def test_a_vector_environment_need_not_know_its_spec(error: type[Exception]) -> None:
    """The error about a bad number is not hidden by another one."""

    class Silent(Foreign):
        entries: dict[str, Any] = {}  # noqa: RUF012

        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            if attr_name == "spec":
                raise error(attr_name)
            return self.venv.get_attr(attr_name, indices)

    env = Silent(DummyVecEnv([lambda: AnyEnv(reward=float("nan"))]))
    with pytest.raises(NonFiniteError, match=r"an unregistered environment \(environment 0 of 1\) met a"):
        agent_on(env).learn(16)
