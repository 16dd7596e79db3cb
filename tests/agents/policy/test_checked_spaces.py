"""Spaces and policies for which there are no networks are rejected, with the part and the fix (issue 16)."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from generated_envs import AnyEnv
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import TRPO, MlpPolicy
from agents.base import PolicyGradientAgent

BOX, DISCRETE = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
ODD = {
    "tuple": (spaces.Tuple([DISCRETE, BOX]), "or a.*Tuple|FlattenObservation"),
    "text": (spaces.Text(3), "expected a Box"),
    "graph": (spaces.Graph(BOX, None), "expected a Box"),
    "sequence": (spaces.Sequence(BOX), "expected a Box"),
    "one_of": (spaces.OneOf([DISCRETE, BOX]), "expected a Box"),
    "nested": (spaces.Dict({"a": spaces.Dict({"b": DISCRETE})}), "expected a Box"),
    "rows": (spaces.MultiDiscrete([[2, 3], [2, 2]]), "one dimension; "),
    "bits": (spaces.MultiBinary([2, 2]), "one dimension; "),
    "empty": (spaces.Box(0, 1, (0,)), "empty; give it"),
}
OBSERVATIONS = ODD | {
    "scalar": (spaces.Box(-1, 1, ()), r"use the shape \(1,\)"),
    "part": (
        spaces.Dict({"a": BOX, "b": spaces.Box(-1, 1, ())}),
        r"observation_space\['b'\].*the shape \(1,\)",
    ),
    "nothing": (spaces.Dict({}), "empty; give it"),
    "layouts": (
        spaces.Dict({"a": IMAGE, "b": spaces.Box(0, 255, (1, 36, 36), np.uint8)}),
        "channels first and last.*; use one",
    ),
}
ACTIONS = ODD | {
    "dict": (spaces.Dict({"a": DISCRETE}), "convert actions by"),
    "unbounded": (spaces.Box(-np.inf, np.inf, (2,)), "must be finite; declare"),
    "half": (spaces.Box(0, np.inf, (2,)), "must be finite; declare"),
    "list": (spaces.MultiBinary([3]), r"declare MultiBinary\(3\)"),
}
CASES = [("observation_space", name) for name in OBSERVATIONS] + [("action_space", name) for name in ACTIONS]


@pytest.mark.parametrize(("what", "name"), CASES)
def test_a_space_without_networks_is_rejected(
    agent_class: type[PolicyGradientAgent], what: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a network is built, with the part's name and what to do."""
    space, message = {"observation_space": OBSERVATIONS, "action_space": ACTIONS}[what][name]
    monkeypatch.setattr(agent_class, "_setup_model", lambda self: pytest.fail("networks were built"))
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    with pytest.raises(ValueError, match=message) as caught:
        agent_class(policy, AnyEnv(**{what: space}), device="cpu")
    assert str(caught.value).startswith(what) and "; " in str(caught.value)
    assert isinstance(caught.value, AssertionError) and isinstance(caught.value, NotImplementedError)  # SB3's


@pytest.mark.parametrize("what", ["observation_space", "action_space"])
def test_a_missing_space_is_named(what: str) -> None:
    """Before anything asks it for its shape."""
    env = AnyEnv()
    setattr(env, what, None)
    with pytest.raises(ValueError, match=f"{what} is None; set a gymnasium.spaces.Space in __init__"):
        TRPO("MlpPolicy", env, device="cpu")


def test_the_fixes_are_fixes() -> None:
    """What the messages name makes an environment work."""
    for space in (
        ODD["tuple"][0],
        ODD["one_of"][0],
        ODD["rows"][0],
        ODD["bits"][0],
        OBSERVATIONS["scalar"][0],
    ):
        env = gym.wrappers.FlattenObservation(AnyEnv(observation_space=space))
        TRPO("MlpPolicy", env, n_steps=16, device="cpu").learn(16)
    start = AnyEnv(observation_space=spaces.Discrete(3, start=-1))
    with pytest.raises(ValueError, match=r"observation_space is .*counts from 0; use a subclass"):
        TRPO(ActorCriticPolicy, start, n_steps=16, device="cpu")
    shifted = gym.wrappers.TransformObservation(start, lambda x: x + 1, spaces.Discrete(3))
    TRPO(ActorCriticPolicy, shifted, n_steps=16, device="cpu").learn(16)
    choices = AnyEnv(action_space=spaces.Tuple([DISCRETE, DISCRETE]))
    converted = gym.wrappers.TransformAction(choices, tuple, spaces.MultiDiscrete([2, 2]))
    TRPO("MlpPolicy", converted, n_steps=16, device="cpu").learn(16)


FLOATS, SMALL_IMAGE = spaces.Box(0, 1, (40, 40, 3)), spaces.Box(0, 255, (9, 9, 1), np.uint8)
CNN, WITHOUT = {"features_extractor_class": NatureCNN}, "without features_extractor_class"
POLICIES = [
    ("CnnPolicy", BOX, {}, "CnnPolicy reads images.*use 'MlpPolicy'"),
    ("CnnPolicy", DISCRETE, {}, "CnnPolicy reads images"),
    ("MlpPolicy", BOX, {"features_extractor_class": "NatureCNN"}, "reads images"),
    ("CnnPolicy", spaces.Box(0, 255, (10, 10, 3), np.uint8), {}, "smaller than the 36 x 36 pixels"),
    (ActorCriticCnnPolicy, BOX, {}, "reads images"),
    ("MultiInputPolicy", BOX, {}, "use 'MlpPolicy' or 'CnnPolicy'"),
    ("MultiInputPolicy", spaces.Dict({"a": spaces.Box(0, 255, (9, 9, 1), np.uint8)}), {}, "the image 'a'"),
    ("MultiInputPolicy", spaces.Dict({"a.b": BOX}), {}, "'a.b'; rename"),
    ("MultiInputPolicy", spaces.Dict({"type": BOX}), {}, "'type'; rename"),
    ("MlpPolicy", spaces.Dict({"a": BOX}), {}, "MultiInputPolicy"),
    ("MlpPolicy", BOX, CNN, f"^MlpPolicy with NatureCNN reads images.*use 'MlpPolicy' {WITHOUT}"),
    ("MlpPolicy", FLOATS, CNN, f"^MlpPolicy with NatureCNN.*use 'MlpPolicy' {WITHOUT}.*channels first"),
    ("CnnPolicy", BOX, CNN, f"^CnnPolicy with NatureCNN.*use 'MlpPolicy' {WITHOUT}"),
    ("MlpPolicy", FLOATS, CNN | {"normalize_images": False}, f"it has 40 x 3.*use 'MlpPolicy' {WITHOUT}"),
    (
        *("MultiInputPolicy", spaces.Dict({"a": BOX}), {"features_extractor_class": "FlattenExtractor"}),
        f"^MultiInputPolicy with FlattenExtractor.*use 'MultiInputPolicy' {WITHOUT}",
    ),
    (
        *("MlpPolicy", BOX, {"features_extractor_class": CombinedExtractor}),
        f"^MlpPolicy with CombinedExtractor.*use 'MlpPolicy' or 'CnnPolicy' {WITHOUT}",
    ),
    ("MultiInputPolicy", spaces.Dict({"a": SMALL_IMAGE}), {}, "or use another features_extractor_class$"),
    (MlpPolicy, spaces.Dict({"a": BOX}), {}, "cannot read a Dict of observations.*use 'MultiInputPolicy'"),
]


@pytest.mark.parametrize(("policy", "space", "kwargs", "message"), POLICIES)
def test_a_policy_for_other_observations_is_rejected(
    policy: Any, space: Any, kwargs: dict, message: str
) -> None:
    """With the name of the policy to use."""
    with pytest.raises(ValueError, match=message):
        TRPO(policy, AnyEnv(observation_space=space), policy_kwargs=kwargs, device="cpu")


def test_images_of_floats_are_images_if_they_are_not_to_be_normalised() -> None:
    """As the message about other observations says."""
    env = AnyEnv(observation_space=spaces.Box(0, 1, (1, 36, 36), np.float32))
    TRPO("CnnPolicy", env, policy_kwargs={"normalize_images": False}, device="cpu")
    with pytest.raises(ValueError, match="normalize_images"):
        TRPO("CnnPolicy", env, device="cpu")


def test_normalised_images_are_explained() -> None:
    """VecNormalize makes floats of images (case R21)."""
    env = VecNormalize(DummyVecEnv([lambda: AnyEnv(observation_space=IMAGE)]))
    with pytest.raises(ValueError, match="norm_obs=False"):
        TRPO("CnnPolicy", env, device="cpu")
