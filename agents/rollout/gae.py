"""Generalised advantage estimation (Schulman et al. 2016)."""

import numpy as np
import torch
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


def scan_advantages(
    rewards: Tensor, values: Tensor, starts: Tensor, last_values: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return the advantages of `generalised_advantages`, (T, N), on the tensors' device.

    Args:
        rewards: (T, N), as there.
        values: V(s_t), (T, N).
        starts: whether state t is the first of an episode, (T + 1, N), with the states after the last step.
        last_values: V of the states after the last step, (N,).
        gamma: γ.
        gae_lambda: λ.
    """
    continues = (~starts[1:]).to(values.dtype)
    following = torch.cat([values[1:], last_values.unsqueeze(0)])
    errors = torch.addcmul(rewards, continues, following, value=gamma).sub_(values)
    weights = continues.mul_(gamma * gae_lambda)
    return _loop(errors, weights) if errors.device.type == "cpu" else _double(errors, weights)


def _loop(errors: Tensor, weights: Tensor) -> Tensor:
    """Return A_t = δ_t + w_t A_{t+1} in T operations, in place."""
    rows, decays = errors.unbind(), weights.unbind()
    for t in reversed(range(len(rows) - 1)):
        rows[t].addcmul_(decays[t], rows[t + 1])
    return errors


def _double(errors: Tensor, weights: Tensor) -> Tensor:
    """Return A_t = δ_t + w_t A_{t+1} in O(log T) operations (Hillis & Steele 1986).

    After k rounds, row t holds the sum of the terms t, ..., t + 2ᵏ − 1, and the product of their weights.
    """
    reach = 1
    while reach < len(errors):
        sums = torch.addcmul(errors[:-reach], weights[:-reach], errors[reach:])
        products = weights[:-reach] * weights[reach:]
        errors = torch.cat([sums, errors[-reach:]])
        weights = torch.cat([products, weights[-reach:]])
        reach *= 2
    return errors
