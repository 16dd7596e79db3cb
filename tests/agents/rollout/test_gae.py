"""Generalised advantages: closed forms, and SB3's own bits."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from agents import TRPO
from agents.rollout.gae import _double, _loop, generalised_advantages, scan_advantages, write_advantages

T, N = 7, 3


@pytest.fixture
def rollout() -> dict[str, np.ndarray]:
    """Random steps of three environments, with episodes that end inside and at the end."""
    rng = np.random.default_rng(0)
    return {
        "rewards": rng.normal(size=(T, N)).astype(np.float32),
        "values": rng.normal(size=(T, N)).astype(np.float32),
        "episode_starts": (rng.random((T, N)) < 0.3).astype(np.float32),
        "last_values": rng.normal(size=N).astype(np.float32),
        "dones": np.array([True, False, False]),
    }


def next_values(rollout: dict[str, np.ndarray]) -> np.ndarray:
    """V(s_{t+1}), 0 after an episode's end."""
    ends = np.concatenate([rollout["episode_starts"][1:], rollout["dones"][None]])
    return np.concatenate([rollout["values"][1:], rollout["last_values"][None]]) * (1 - ends)


def test_lambda_zero_is_the_one_step_error(rollout: dict[str, np.ndarray]) -> None:
    """A_t = r_t + γ V(s_{t+1}) − V(s_t)."""
    advantages = generalised_advantages(**rollout, gamma=0.9, gae_lambda=0.0)
    expected = rollout["rewards"] + 0.9 * next_values(rollout) - rollout["values"]
    np.testing.assert_allclose(advantages, expected, rtol=1e-5)


def test_lambda_one_is_the_discounted_return(rollout: dict[str, np.ndarray]) -> None:
    """A_t + V(s_t) = Σ γᵏ r_{t+k}, bootstrapped if the rollout ends before the episode."""
    advantages = generalised_advantages(**rollout, gamma=0.9, gae_lambda=1.0)
    ends = np.concatenate([rollout["episode_starts"][1:], rollout["dones"][None]])
    for t in range(T):
        for i in range(N):
            total, discount = 0.0, 1.0
            for k in range(t, T):
                total, discount = total + discount * rollout["rewards"][k, i], discount * 0.9
                if ends[k, i]:
                    break
            else:
                total += discount * rollout["last_values"][i]
            assert advantages[t, i] + rollout["values"][t, i] == pytest.approx(total, abs=1e-5)


def test_constant_errors_sum_to_a_geometric_series() -> None:
    """With δ = 1 everywhere, A_t = (1 − (γλ)^{T−t}) / (1 − γλ)."""
    zeros, last = np.zeros((T, N), np.float32), np.zeros(N, np.float32)
    dones = np.zeros(N, bool)
    advantages = generalised_advantages(zeros + 1, zeros, zeros, last, dones, gamma=0.9, gae_lambda=0.8)
    expected = (1 - 0.72 ** (T - np.arange(T))) / (1 - 0.72)
    np.testing.assert_allclose(advantages, np.tile(expected[:, None], N), rtol=1e-5)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 8, 33])
def test_the_scans_on_tensors_are_the_same(steps: int, gae_lambda: float) -> None:
    """The loop bitwise or nearly so, the doubling to rounding, for any number of steps."""
    rng = np.random.default_rng(steps)
    rewards, values = (rng.normal(size=(steps, N)).astype(np.float32) for _ in range(2))
    starts, last = rng.random((steps + 1, N)) < 0.2, rng.normal(size=N).astype(np.float32)
    rollout = (rewards, values, starts[:-1].astype(np.float32), last, starts[-1])
    expected = torch.as_tensor(generalised_advantages(*rollout, 0.99, gae_lambda))
    found = scan_advantages(*map(torch.as_tensor, (rewards, values, starts, last)), 0.99, gae_lambda)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    errors, weights = torch.randn(steps, N), torch.rand(steps, N)
    doubled = _double(errors, weights)
    torch.testing.assert_close(doubled, _loop(errors.clone(), weights), rtol=1e-5, atol=1e-6)


def fill(buffer: RolloutBuffer, rollout: dict[str, np.ndarray]) -> RolloutBuffer:
    """Return the buffer with the steps of the rollout."""
    for name in ("rewards", "values", "episode_starts"):
        setattr(buffer, name, rollout[name].copy())
    return buffer


def test_the_bits_are_sb3s(rollout: dict[str, np.ndarray]) -> None:
    """Advantages and returns of the buffer are bitwise those that SB3 computes."""
    spaces_ = (spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    ours, theirs = (
        fill(RolloutBuffer(T, *spaces_, gae_lambda=0.95, gamma=0.99, n_envs=N), rollout) for _ in range(2)
    )
    last = torch.as_tensor(rollout["last_values"])[:, None]
    write_advantages(ours, last, rollout["dones"])
    theirs.compute_returns_and_advantage(last, rollout["dones"])
    assert np.array_equal(ours.advantages, theirs.advantages) and ours.advantages.any()
    assert np.array_equal(ours.returns, theirs.returns)


def test_the_critics_targets_have_a_lambda_of_their_own(rollout: dict[str, np.ndarray]) -> None:
    """With 1 they are the discounted returns; the advantages stay those of gae_lambda, bit for bit."""
    spaces_ = (spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    one, other, monte_carlo = (
        fill(RolloutBuffer(T, *spaces_, gae_lambda=gae_lambda, gamma=0.99, n_envs=N), rollout)
        for gae_lambda in (0.95, 0.95, 1.0)
    )
    last = torch.as_tensor(rollout["last_values"])[:, None]
    write_advantages(one, last, rollout["dones"])
    write_advantages(other, last, rollout["dones"], critic_lambda=1.0)
    write_advantages(monte_carlo, last, rollout["dones"])
    assert np.array_equal(one.advantages, other.advantages)
    assert np.array_equal(other.returns, monte_carlo.returns) and not np.array_equal(
        one.returns, other.returns
    )


def test_an_agent_passes_its_critic_lambda_on() -> None:
    """The buffer of a rollout has returns of that λ; of a model saved without it, those of gae_lambda."""
    buffers = []
    for critic_lambda in (None, 1.0):
        agent = TRPO(
            "MlpPolicy",
            "CartPole-v1",
            n_steps=64,
            batch_size=64,
            seed=0,
            device="cpu",
            critic_lambda=critic_lambda,
        )
        agent.learn(64)
        buffers.append(agent.rollout_buffer)
    one, other = buffers
    assert np.array_equal(one.advantages, other.advantages)
    assert np.array_equal(one.returns, one.advantages.reshape(one.returns.shape) + one.values)
    assert not np.array_equal(one.returns, other.returns)
    with pytest.raises(ValueError, match="critic_lambda"):
        TRPO("MlpPolicy", "CartPole-v1", critic_lambda=1.5)


def test_a_buffer_with_its_own_estimator_uses_it(rollout: dict[str, np.ndarray]) -> None:
    """A `rollout_buffer_class` that overrides SB3's method keeps its meaning."""

    class MonteCarlo(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
            self.advantages[:] = 5.0

    buffer = fill(MonteCarlo(T, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), n_envs=N), rollout)
    write_advantages(buffer, torch.as_tensor(rollout["last_values"]), rollout["dones"])
    assert (buffer.advantages == 5).all()
