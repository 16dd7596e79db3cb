"""Every observation space with every action space."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from masked_env import SPACES, MaskedEnv
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack


def build_env(observations: str, actions: str, n_envs: int = 2) -> DummyVecEnv:
    """Return environments with the named spaces."""
    return make_vec_env(lambda: SpacesEnv(OBSERVATIONS[observations], ACTIONS[actions]), n_envs, seed=0)


def check_learns(agent, weights: Callable) -> None:
    """Two updates move the policy and keep it finite; predictions are legal, single and batched."""
    before = weights(agent.policy)
    agent.learn(64)
    after = weights(agent.policy)
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    env = agent.get_env()
    observations = env.reset()
    actions, state = agent.predict(observations, deterministic=True)
    assert state is None and len(actions) == env.num_envs
    assert all(env.action_space.contains(action) for action in actions)
    first = {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
    single, _ = agent.predict(first, deterministic=True)
    assert env.action_space.contains(single if single.ndim else int(single))
    assert np.allclose(single, actions[0], atol=1e-5)


@pytest.mark.covering(2)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_learns(make: Callable, weights: Callable, observations: str, actions: str) -> None:
    """Observations of every kind with actions of every kind."""
    check_learns(make(policy_for(OBSERVATIONS[observations]), build_env(observations, actions)), weights)


@pytest.mark.covering(1)
@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("frequency", [-1, 4])
def test_gsde_learns(make: Callable, weights: Callable, observations: str, frequency: int) -> None:
    """State-dependent exploration on every observation space."""
    env = build_env(observations, "box")
    agent = make(policy_for(OBSERVATIONS[observations]), env, use_sde=True, sde_sample_freq=frequency)
    check_learns(agent, weights)


def test_squashed_gsde_learns(make: Callable, weights: Callable) -> None:
    """Actions squashed into the bounds of the box."""
    kwargs = {"squash_output": True, "log_std_init": -2.0}
    check_learns(make("MlpPolicy", build_env("box", "box"), use_sde=True, policy_kwargs=kwargs), weights)


@pytest.mark.with_controls
def test_stacked_frames_learn(make: Callable, weights: Callable) -> None:
    """SB3's frame stacking of images."""
    check_learns(make("CnnPolicy", VecFrameStack(build_env("image_last", "discrete"), 4)), weights)


@pytest.mark.covering(1)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("observations", ["image_first", "dict"])
def test_features_shared_or_not(make: Callable, weights: Callable, observations: str, shared: bool) -> None:
    """Both layouts of feature extractors."""
    agent = make(
        policy_for(OBSERVATIONS[observations]),
        build_env(observations, "discrete"),
        policy_kwargs={"share_features_extractor": shared},
    )
    check_learns(agent, weights)


@pytest.mark.parametrize(
    "actions", ["discrete", *(pytest.param(other, marks=pytest.mark.slow) for other in [*SPACES][1:])]
)
def test_masks_learn(algorithm: type, make: Callable, weights: Callable, actions: str) -> None:
    """Only allowed actions are taken; the environment would raise an error for others."""
    if "use_masking" not in inspect.signature(algorithm).parameters:
        pytest.skip("sb3-contrib's TRPO and SB3's A2C ignore masks")
    agent = make("MlpPolicy", DummyVecEnv([lambda: MaskedEnv(SPACES[actions])] * 2))
    before = weights(agent.policy)
    after = weights(agent.learn(64).policy)
    assert torch.isfinite(after).all() and not torch.equal(before, after)


def test_dict_needs_its_policy(make: Callable) -> None:
    """A dictionary of observations with MlpPolicy is rejected by name."""
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make("MlpPolicy", build_env("dict", "discrete"))


def test_nested_dict_is_rejected(make: Callable) -> None:
    """A dictionary inside a dictionary is not supported, and said so."""
    nested = spaces.Dict({"outer": spaces.Dict({"inner": OBSERVATIONS["box"]})})
    with pytest.raises(NotImplementedError, match=r"Nested|expected a Box"):
        make("MultiInputPolicy", DummyVecEnv([lambda: SpacesEnv(nested, ACTIONS["box"])]))


def test_unknown_action_space_is_rejected(make: Callable) -> None:
    """Tuples of actions have no policy."""
    actions = spaces.Tuple([ACTIONS["discrete"], ACTIONS["box"]])
    with pytest.raises(AssertionError, match=r"only supports|expected a Box"):
        make("MlpPolicy", DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS["box"], actions)]))


def test_gsde_needs_a_box(make: Callable) -> None:
    """State-dependent exploration of discrete actions is rejected."""
    with pytest.raises(ValueError, match="only be used with continuous actions"):
        make("MlpPolicy", build_env("box", "discrete"), use_sde=True)
