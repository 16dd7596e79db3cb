"""CartPole without velocities is CartPole, but for its observations."""

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_checker import check_env

import envs  # noqa: F401  # registers it


def test_it_is_cartpole_with_fewer_observations() -> None:
    """Same states, rewards and ends; observations are position and angle."""
    hidden, full = (gym.make(name) for name in ("CartPoleHiddenVelocity-v0", "CartPole-v1"))
    check_env(hidden.unwrapped)
    assert hidden.spec is not None and hidden.spec.max_episode_steps == 500
    for seed in range(3):
        observations = [env.reset(seed=seed)[0] for env in (hidden, full)]
        ended = False
        while not ended:
            np.testing.assert_array_equal(observations[0], observations[1][[0, 2]])
            assert hidden.observation_space.contains(observations[0])
            action = int(observations[1][2] > 0)
            results = [env.step(action) for env in (hidden, full)]
            assert results[0][1:4] == results[1][1:4]
            observations = [result[0] for result in results]
            ended = results[0][2]
