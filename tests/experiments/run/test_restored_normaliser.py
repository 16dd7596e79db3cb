"""The statistics of VecNormalize come back from a checkpoint as from SB3's own pickle."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from run_folders import CONFIG
from spaces_env import OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents import VPG
from envs.state.vec_env_checkpointer import VecEnvCheckpointer
from experiments.normalised import normalised
from experiments.run.stored_policy import Checkpoint, restore_policy
from experiments.settings.run_settings import RunSettings


def make(space: str, n_envs: int = 2) -> VecEnv:
    """Return environments without a state, or with one: those of CartPole-v1."""
    if space == "CartPole-v1":
        return DummyVecEnv([lambda: gym.make(space)] * n_envs)
    return DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS[space], spaces.Discrete(3))] * n_envs)


def stored(env: VecNormalize, tmp_path: Path) -> tuple[Checkpoint, RunSettings]:
    """Return the parts of a checkpoint that are read, and the run's settings."""
    policy = policy_for(env.observation_space)
    agent = VPG(policy, env, n_steps=32, batch_size=32, device="cpu")
    content = {
        "agent": {"parameters": {"policy": agent.policy.state_dict()}},
        "envs": VecEnvCheckpointer().take(env),
    }
    config = CONFIG | {"algo": "vpg", "env": "CartPole-v1", "policy": policy, "normalize": True}
    checkpoint = tmp_path / "checkpoints" / "checkpoint-000000001.ckpt", content
    return checkpoint, RunSettings.from_document(config | {"hyperparameters": {}})


@pytest.mark.parametrize("space", ["box", "image_last", "dict", "CartPole-v1"])
def test_normaliser_is_sb3s(space: str, tmp_path: Path) -> None:
    """Around any number of environments, it normalises bitwise as from SB3's pickle, and stays as it is."""
    original = normalised(make(space), 0.7)
    original.seed(0)
    original.reset()
    for _ in range(15):
        original.step(np.array([0, 1]))
    original.save(str(tmp_path / "n.pkl"))
    checkpoint, settings = stored(original, tmp_path)
    ours = restore_policy(checkpoint, settings, make(space, 3))[1]
    theirs = VecNormalize.load(str(tmp_path / "n.pkl"), make(space, 3))
    theirs.training = theirs.norm_reward = False
    trails = []
    for normaliser in (theirs, ours):
        normaliser.seed(1)
        trail = [normaliser.reset()]
        for _ in range(25):
            trail += normaliser.step(np.array([1, 0, 1]))[:2]
        trails.append(trail)
    for expected, found in zip(*trails, strict=True):
        parts = (expected, found) if isinstance(expected, dict) else ({"": expected}, {"": found})
        assert parts[0].keys() == parts[1].keys()
        for key in parts[0]:
            np.testing.assert_array_equal(parts[0][key], parts[1][key], strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.zeros(3)}, r"the mean of a normaliser must be numbers of shape \(4,\)"),
        ({"var": -np.ones(4)}, r"the var of a normaliser must be numbers ≥ 0 of shape \(4,\)"),
        ({"mean": np.ones(4, int)}, "the mean of a normaliser must be numbers"),
        ({"count": "x"}, "the count of a normaliser must be numbers ≥ 0"),
        ({"count": -1.0}, "the count of a normaliser must be numbers ≥ 0"),
        ({"count": None}, "the count of a normaliser must be numbers ≥ 0"),
        (None, "does not fit the policy that config.yaml describes"),
    ],
)
def test_bad_normaliser_is_rejected(changes: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    """Statistics of the wrong shape or impossible values reach no policy, and no run that resumes."""
    env = normalised(make("CartPole-v1"))
    env.reset()
    (path, content), settings = stored(env, tmp_path)
    kept = content["envs"]["wrappers"][0]["kept"]
    kept["obs_rms"] = None if changes is None else kept["obs_rms"] | changes
    state = copy.deepcopy(content["envs"])
    with pytest.raises(ValueError, match=message):
        restore_policy((path, content), settings, make("CartPole-v1"))
    if changes is not None:
        with pytest.raises(ValueError, match=message):
            VecEnvCheckpointer().restore(normalised(make("CartPole-v1")), state)


def test_checkpoint_without_a_normaliser(tmp_path: Path) -> None:
    """A config.yaml that asks for one does not get that of nobody."""
    env = normalised(make("CartPole-v1"))
    env.reset()
    (path, content), settings = stored(env, tmp_path)
    content["envs"]["wrappers"] = []
    with pytest.raises(ValueError, match="does not fit the policy"):
        restore_policy((path, content), settings, make("CartPole-v1"))
