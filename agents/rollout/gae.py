"""Generalised advantage estimation (Schulman et al. 2016)."""

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor


def generalised_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    episode_starts: np.ndarray,
    last_values: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Return the advantages A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V(s_{t+1}) − V(s_t).

    Both V(s_{t+1}) and A_{t+1} are 0 if the episode ends with step t. The reward of a step that truncates an
    episode must already include γ V of the episode's last state (see `Trajectories`).

    Args:
        rewards: (T, n_envs).
        values: V(s_t), (T, n_envs).
        episode_starts: whether step t is the first of an episode, (T, n_envs).
        last_values: V of the states after the last step, (n_envs,).
        dones: whether the last step ended an episode, (n_envs,).
        gamma: γ, the discount factor.
        gae_lambda: λ; 0 gives the one-step error δ, 1 the discounted return minus V.

    Returns:
        The advantages, (T, n_envs); adding the values gives the critic's targets.
    """
    advantages = np.zeros_like(rewards)
    advantage: np.ndarray | int = 0
    continues, next_values = 1.0 - dones.astype(np.float32), last_values
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_values * continues - values[t]
        advantage = delta + gamma * gae_lambda * continues * advantage
        advantages[t] = advantage
        continues, next_values = 1.0 - episode_starts[t], values[t]
    return advantages


def write_advantages(
    buffer: RolloutBuffer, last_values: Tensor, dones: np.ndarray, critic_lambda: float | None = None
) -> None:
    """Write advantages and the critic's targets into a full buffer.

    If the buffer class has its own estimator, that is used, whatever `critic_lambda` is.

    Args:
        buffer: a buffer with the steps of a rollout.
        last_values: V of the states after the last step, (n_envs, 1).
        dones: whether the last step ended an episode, (n_envs,).
        critic_lambda: λ of the targets; None for that of the advantages. With γ near 1 and a small λ, the
            targets are almost the old values, and the error of the values shrinks only by a factor
            γ(1−λ)/(1−γλ) per update (Tsitsiklis & Van Roy 1997, "An analysis of temporal-difference
            learning").
    """
    estimator = type(buffer).compute_returns_and_advantage
    if estimator is not RolloutBuffer.compute_returns_and_advantage:
        estimator(buffer, last_values, dones)
        return
    last = last_values.cpu().numpy().flatten()
    rollout = (buffer.rewards, buffer.values, buffer.episode_starts, last, dones, buffer.gamma)
    buffer.advantages = targets = generalised_advantages(*rollout, buffer.gae_lambda)
    if critic_lambda is not None:
        targets = generalised_advantages(*rollout, critic_lambda)
    buffer.returns = targets + buffer.values
