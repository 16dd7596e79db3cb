"""The Gaussian bandit: its closed forms against sampling and finite differences."""

import numpy as np
import pytest

from envs import GaussianBandit


def test_expected_reward_is_the_mean_of_sampled_rewards():
    """The closed form is the mean reward of sampled actions, within 4 standard errors."""
    bandit, rng = GaussianBandit(target=(0.5, -2.0)), np.random.default_rng(0)
    mean, std = np.array([1.0, 0.3]), np.array([0.2, 1.5])
    bandit.reset(seed=0)
    rewards = [bandit.step(mean + std * rng.standard_normal(2))[1] for _ in range(20_000)]
    standard_error = np.std(rewards, ddof=1) / np.sqrt(len(rewards))
    assert abs(np.mean(rewards) - bandit.expected_reward(mean, std)) < 4 * standard_error


def test_gradient_matches_finite_differences():
    """The gradient in (mean, log std) is that of central differences."""
    bandit, rng, h = GaussianBandit(target=(0.5, -2.0, 1.0)), np.random.default_rng(0), 1e-5
    mean, log_std = rng.normal(size=(2, 3))
    mean_gradient, log_std_gradient = bandit.expected_reward_gradient(mean, np.exp(log_std))
    for i, unit in enumerate(h * np.eye(3)):
        by_mean = [bandit.expected_reward(mean + s * unit, np.exp(log_std)) for s in (1, -1)]
        by_std = [bandit.expected_reward(mean, np.exp(log_std + s * unit)) for s in (1, -1)]
        assert mean_gradient[i] == pytest.approx((by_mean[0] - by_mean[1]) / (2 * h), abs=1e-6)
        assert log_std_gradient[i] == pytest.approx((by_std[0] - by_std[1]) / (2 * h), abs=1e-6)


def test_optimum_is_the_target_without_spread():
    """Nothing earns more than the target played exactly, where the mean gradient vanishes."""
    bandit = GaussianBandit()
    assert bandit.expected_reward(bandit.target, 0.0) == bandit.optimal_reward
    assert not bandit.expected_reward_gradient(bandit.target, 1.0)[0].any()
    rng = np.random.default_rng(0)
    for mean, std in zip(rng.normal(size=(10, 2)), rng.exponential(size=(10, 2)), strict=True):
        assert bandit.expected_reward(mean, std) < bandit.optimal_reward


def test_scalar_parameters_stand_for_every_dimension():
    """A scalar mean or std counts once a dimension."""
    bandit = GaussianBandit(target=(1.0, -1.0, 2.0))
    scalar = bandit.expected_reward(0.5, 0.3)
    assert scalar == pytest.approx(bandit.expected_reward(np.full(3, 0.5), np.full(3, 0.3)))
    assert [part.shape for part in bandit.expected_reward_gradient(0.5, 0.3)] == [(3,), (3,)]


def test_an_episode_is_one_step():
    """The first step terminates, and the observation never changes."""
    bandit = GaussianBandit(target=(1.0,))
    first, _ = bandit.reset(seed=0)
    last, reward, terminated, truncated, _ = bandit.step(np.array([3.0], np.float32))
    assert (reward, terminated, truncated) == (-4.0, True, False)
    assert np.array_equal(first, [1.0]) and np.array_equal(last, first)


@pytest.mark.parametrize("target", [1.0, [[1.0]], [11.0], [np.nan]])
def test_wrong_target_is_named(target):
    """A target that is no vector inside the bounds is an error."""
    with pytest.raises(ValueError, match="expected a vector target inside"):
        GaussianBandit(target=target)


@pytest.mark.parametrize("mean, std", [([0.0], 1.0), (0.0, [1.0]), (0.0, -1.0)])
def test_wrong_parameters_are_named(mean, std):
    """A mean or std that would broadcast wrongly, or a negative std, is an error."""
    with pytest.raises(ValueError, match="expected mean and std >= 0"):
        GaussianBandit().expected_reward(mean, std)
