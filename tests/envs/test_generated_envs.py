"""Environments of any spaces, rewards, infos and lengths work, or are rejected by a clear ValueError."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
from generated_envs import AnyEnv, Generator
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents import TRPO
from envs import make_vec_env

STEPS = 9


def rollout(vec_env: VecEnv, seed: int) -> list[Any]:
    """Return what random actions give, without the time that Monitor measured."""
    space = vec_env.action_space
    space.seed(seed)
    seen = [vec_env.reset()]
    for _ in range(STEPS):
        actions = [space.sample() for _ in range(vec_env.num_envs)]
        observations, rewards, dones, infos = vec_env.step(
            actions if space.shape is None else np.array(actions)
        )
        for info in infos:
            info.get("episode", {}).pop("t", None)
            info.pop("lambda", None)  # a copy is not equal
        seen += [observations, rewards, dones, infos]
    return seen


def policy_for(space: spaces.Space) -> str:
    """Return SB3's policy for observations."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return "MultiInputPolicy"
    return "CnnPolicy" if len(space.shape or ()) == 3 else "MlpPolicy"


def check(seed: int) -> str:
    """Build, step and train on a generated environment; return how that ended."""
    kwargs = Generator(seed).draw()
    kinds = {"dummy": {}, "workers": {"vec_env_kwargs": {"n_workers": 1}}}
    seen, rejected = [], []
    for kind, options in kinds.items():
        try:
            vec_env = make_vec_env(AnyEnv, 2, seed, vec_env=kind, env_kwargs=kwargs, **options)
        except ValueError as error:
            assert "observation_space" in str(error) and "; " in str(error)
            rejected.append(kind)
            continue
        seen.append(rollout(vec_env, seed))
        if kind == "workers":
            vec_env.close()
    if rejected:
        assert rejected == list(kinds)
        return "rejected by make_vec_env"
    np.testing.assert_equal(seen[1], seen[0])
    vec_env = make_vec_env(AnyEnv, 2, seed, vec_env="dummy", env_kwargs=kwargs)
    try:
        agent = train(vec_env, seed)
    except ValueError as error:
        assert re.match(r"(observation|action)_space\b.*; ", str(error).replace("\n", " "))
        with pytest.raises(ValueError, match="_space"):
            train(AnyEnv(**kwargs), seed)
        return "rejected by the agent"
    actions, _ = agent.predict(vec_env.reset())
    space = vec_env.action_space
    assert len(actions) == 2 and actions.dtype == space.dtype
    for received in (actions[0], vec_env.get_attr("received")[0]):
        assert space.contains(received)
    plain = train(AnyEnv(**kwargs), seed)  # without `CheckedEnv`
    assert space.contains(plain.get_env().get_attr("received")[0])
    return "trained"


def train(env: Any, seed: int) -> TRPO:
    """Return an agent after two updates."""
    options = {"n_steps": 8, "batch_size": 16, "n_critic_updates": 1, "seed": seed, "device": "cpu"}
    return TRPO(policy_for(env.observation_space), env, **options).learn(16 * getattr(env, "num_envs", 1))


def check_all(seeds: range) -> None:
    """Check environments; fail with those that fail, and if few could be trained on."""
    ends, failures = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            try:
                ends.append(check(seed))
            except Exception as error:
                failures.append(f"{seed}: {type(error).__name__}: {error!s:.300}\n{Generator(seed).draw()}")
    assert not failures, f"{len(failures)} of {len(seeds)}:\n" + "\n".join(failures[:20])
    assert ends.count("trained") > len(seeds) / 2
    assert len(set(ends)) == 3


def test_generated_environments() -> None:
    """A few."""
    check_all(range(60, 90))


@pytest.mark.slow
def test_many_generated_environments() -> None:
    """Minutes of them."""
    check_all(range(1000, 3000))
