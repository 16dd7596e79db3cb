"""Actions reach an environment in the dtype of their space, and within it (case R4)."""

from typing import Any

import numpy as np
import pytest
import torch
from generated_envs import AnyEnv
from gymnasium import spaces
from spaces_env import discrete
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import ACKTR, NPG, TRPO, VPG
from agents.policy.actions import from_policy, to_space
from agents.policy.observations import count_from_zero
from agents.rollout.tensor_actions import TensorActions
from envs.checked_env import _to_integers

INTEGERS = np.iinfo(np.int64)
BOXES = {
    "int64": spaces.Box(0, 20, (2,), np.int64),
    "int8": spaces.Box(-3, 3, (2, 2), np.int8),
    "scalar": spaces.Box(0, 255, (), np.uint8),
    "whole": spaces.Box(INTEGERS.min, INTEGERS.max, (2,), np.int64),
    "unsigned": spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    "large": spaces.Box(np.array([0, 5]), np.array([1, 2**62 + 1]), dtype=np.int64),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "float64": spaces.Box(-0.1, 0.7, (2,), np.float64),
}


@pytest.mark.parametrize("name", BOXES)
def test_any_float_becomes_an_action(name: str) -> None:
    """Batches and single actions; the same as what environments do with the actions of other agents."""
    space = BOXES[name]
    for value in (0.0, 0.5, 1.7, 3.7, -9.2, 1e9, 1e30, -np.inf, np.inf):
        for dtype in (np.float32, np.float64):
            batch = to_space(space, np.full((3, *space.shape), value, dtype))
            assert batch.shape == (3, *space.shape) and batch.dtype == space.dtype
            assert all(space.contains(np.asarray(action)) for action in batch)
            single = to_space(space, np.full(space.shape, value, dtype))
            assert np.array_equal(single, batch[0])
            if space.dtype.kind in "iu":
                assert np.array_equal(_to_integers(np.full(space.shape, value, dtype), space), single)


def test_rounding_is_to_the_nearest() -> None:
    """3.7 is 4, and what is an integer stays it."""
    space = BOXES["int64"]
    assert to_space(space, np.array([[3.7, 19.6]])).tolist() == [[4, 20]]
    exact = np.array([[3, 20]])
    assert np.array_equal(to_space(space, exact), exact)
    whole = np.array([[2**53 + 1, -(2**62) - 1]])
    assert np.array_equal(to_space(BOXES["whole"], whole), whole)


def test_nan_stays_nan() -> None:
    """In floats, so that whoever checks the action sees it."""
    actions = to_space(BOXES["float64"], np.array([[np.nan, 5.0]]))
    assert np.isnan(actions[0, 0]) and actions[0, 1] == 0.7


ACTIONS = BOXES | {
    "binary": spaces.MultiBinary(3),
    "multi": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "discrete": discrete(3, np.int32),
}
SHIFTED = {
    "start": discrete(3, np.int64, 5),
    "negative": discrete(4, np.int32, -2),
    "starts": spaces.MultiDiscrete([3, 2], start=[-1, 4]),
    "narrow": spaces.MultiDiscrete([100, 2], dtype=np.int8, start=[-100, 0]),
}


class Plain(ActorCriticPolicy):
    """A user's own."""


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("agent_class", "policy"), [(TRPO, "MlpPolicy"), (NPG, Plain), (VPG, Plain), (ACKTR, "MlpPolicy")]
)
@pytest.mark.parametrize("name", [*ACTIONS, *SHIFTED])
def test_rollouts_and_predictions_are_in_the_space(agent_class: Any, policy: Any, name: str) -> None:
    """Of environments that nothing checks; `AnyEnv` raises otherwise."""
    space = (ACTIONS | SHIFTED)[name]
    policy = "MlpPolicy" if name in SHIFTED else policy
    env = DummyVecEnv([lambda: AnyEnv(action_space=space, length=4)] * 2)
    agent = agent_class(policy, env, n_steps=8, batch_size=8, seed=0, device="cpu")
    with torch.no_grad():
        agent.policy.action_net.weight.mul_(1000)
    agent.learn(16)
    for received in env.get_attr("received"):
        assert space.contains(received) and received.dtype == space.dtype
    observations = env.reset()
    for predict in [agent.predict] + [agent.policy.predict] * (policy == "MlpPolicy"):
        actions, _ = predict(observations)
        single, _ = predict(observations[0], deterministic=True)
        for action in (*actions, single):
            assert space.contains(np.asarray(action) if isinstance(space, spaces.Box) else action)
            assert action.dtype == space.dtype


@pytest.mark.parametrize("name", SHIFTED)
def test_choices_count_from_their_start(name: str) -> None:
    """The agent's choice 0 is the environment's start, and the observation `start` is the network's 0."""
    space = SHIFTED[name]
    sampled = np.zeros((2, *space.shape), np.int64)
    assert np.array_equal(from_policy(space, sampled), sampled + space.start)
    on_device = TensorActions(space, squashed=False, device="cpu")(torch.as_tensor(sampled))
    assert np.array_equal(on_device, sampled + space.start)
    dictionary = spaces.Dict({"a": space, "b": spaces.Box(0, 1, (2,))})
    for observations, policy in ((space, "MlpPolicy"), (dictionary, "MultiInputPolicy")):
        env = AnyEnv(observation_space=observations, action_space=space, length=4)
        agent = TRPO(policy, env, n_steps=8, batch_size=8, seed=0, device="cpu").learn(16)
        seen = agent.get_env().reset()
        best = agent.actor(agent.policy.obs_to_tensor(seen)[0])
        logits = [best.logits] if isinstance(space, spaces.Discrete) else best.logits
        expected = np.stack([z.argmax(-1).numpy() for z in logits], -1).reshape(sampled[:1].shape)
        actions, _ = agent.predict(seen, deterministic=True)
        assert np.array_equal(actions, expected + space.start)
        assert agent.outcomes["accepted"] == 2


def test_observations_are_encoded_from_their_start() -> None:
    """Every element of the space is a different unit vector."""
    space = spaces.Dict({"a": discrete(3, np.int64, -1), "b": spaces.MultiDiscrete([2, 2], start=[7, -3])})
    states = {"a": torch.tensor([-1, 0, 1]), "b": torch.tensor([[7, -3], [8, -3], [7, -2]])}
    counted = count_from_zero(space, states)
    assert counted["a"].tolist() == [0, 1, 2]
    assert counted["b"].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_squashed_actions_are_rounded_too() -> None:
    """From [-1, 1] to the bounds, then to the nearest integer."""
    space = spaces.Box(0, 20, (2,), np.int64)
    kwargs = {"squash_output": True}
    agent = TRPO(
        "MlpPolicy", AnyEnv(action_space=space), use_sde=True, policy_kwargs=kwargs, n_steps=16, device="cpu"
    )
    with torch.no_grad():
        agent.policy.action_net.bias.copy_(torch.tensor([-9.0, 9.0]))
        agent.policy.log_std.fill_(-9.0)
    agent.learn(16)
    for action in (agent.env.get_attr("received")[0], agent.predict(agent.env.reset()[0])[0]):
        assert space.contains(action) and action.tolist() == [0, 20]
