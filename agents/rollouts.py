"""Collecting trajectories."""

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

# Of VecNormalize; obs_rms is missing where observations are left as they are.
RUNNING_STATISTICS = ("obs_rms", "ret_rms", "returns")


class NonFiniteError(FloatingPointError, ValueError):
    """An observation, reward or action is NaN or infinite; as a ValueError it makes RL Zoo prune a trial."""


def collect(
    agent: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill the buffer with `n_rollout_steps` steps of every environment, then its advantages.

    Does what SB3's `collect_rollouts` does, in its order and with its local names, on which callbacks
    rely. Differs where that one is silent: a number that is not finite stops the run by name before it
    reaches the buffer, with the statistics of a `VecNormalize` put back to the rollout's start.

    Returns:
        False where a callback ended the training.

    Raises:
        NonFiniteError: naming the environment and the step.
    """
    agent.policy.set_training_mode(False)
    n_steps = 0
    new_obs: Any
    rollout_buffer.reset()
    if agent.use_sde:
        agent.policy.reset_noise(env.num_envs)
    normaliser = unwrap_vec_normalize(env)
    state = vars(normaliser) if normaliser else {}
    statistics = copy.deepcopy({key: state[key] for key in RUNNING_STATISTICS if key in state})
    callback.on_rollout_start()
    try:
        last_obs: Any = agent._last_obs
        check_finite(agent, env, "observation", last_obs)
        while n_steps < n_rollout_steps:
            if agent.use_sde and agent.sde_sample_freq > 0 and n_steps % agent.sde_sample_freq == 0:
                agent.policy.reset_noise(env.num_envs)
            with torch.no_grad():
                obs_tensor = obs_as_tensor(last_obs, agent.device)
                sampled, values, log_probs = act(agent, obs_tensor)
            actions = sampled.cpu().numpy()
            check_finite(agent, env, "action", actions)  # clipping would hide an infinity
            clipped_actions = to_environment(agent, actions)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            agent.num_timesteps += env.num_envs
            check_finite(agent, env, "reward", rewards)
            check_finite(agent, env, "observation", new_obs)

            callback.update_locals(locals())
            if not callback.on_step():
                return False
            agent._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(agent.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            check_terminal(agent, env, dones, infos)
            rewards = bootstrap_truncations(agent, rewards, dones, infos)
            starts: Any = agent._last_episode_starts
            rollout_buffer.add(last_obs, actions, rewards, starts, values, log_probs)
            agent._last_obs, agent._last_episode_starts = new_obs, dones
            last_obs = new_obs
    except NonFiniteError:
        state.update(statistics)
        raise
    with torch.no_grad():
        values = agent.policy.predict_values(obs_as_tensor(new_obs, agent.device))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


def act(agent: OnPolicyAlgorithm, observations: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return actions, values and log-probabilities at finite observations.

    Raises:
        NonFiniteError: the policy puts out numbers that are no distribution.
    """
    try:
        return agent.policy(observations)
    except ValueError as error:
        raise NonFiniteError(
            f"the policy gives no action distribution at step {agent.num_timesteps}; look for NaN among its "
            f"parameters, or for weights or log_std too large: {error}"
        ) from error


def check_terminal(
    agent: OnPolicyAlgorithm, env: VecEnv, dones: np.ndarray, infos: list[dict[str, Any]]
) -> None:
    """Raise where the last observation of an episode, which `new_obs` no longer holds, is not finite.

    Raises:
        NonFiniteError: naming the environment and the step.
    """
    for i in np.flatnonzero(dones):
        terminal = infos[i].get("terminal_observation")
        if terminal is not None:
            parts = terminal if isinstance(terminal, dict) else {"": terminal}
            for key, value in parts.items():
                check_finite(agent, env, "observation", {key: np.asarray(value)[None]}, int(i))


def to_environment(agent: OnPolicyAlgorithm, actions: np.ndarray) -> np.ndarray:
    """Return the actions as the environment takes them: within the bounds of a Box."""
    if not isinstance(agent.action_space, spaces.Box):
        return actions
    if agent.policy.squash_output:
        return agent.policy.unscale_action(actions)
    return np.clip(actions, agent.action_space.low, agent.action_space.high)


def bootstrap_truncations(
    agent: OnPolicyAlgorithm, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
) -> np.ndarray:
    """Return rewards (n_envs,) plus γ V(terminal observation) where an episode was cut short.

    A truncated episode would have gone on, so its last state keeps its value; a terminated one's is
    zero (Pardo et al. 2018, "Time limits in reinforcement learning").
    """
    cut = [
        i
        for i in np.flatnonzero(dones)
        if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
    ]
    if not cut:
        return rewards
    rewards = rewards.copy()
    for i in cut:
        observation, _ = agent.policy.obs_to_tensor(infos[i]["terminal_observation"])
        with torch.no_grad():
            rewards[i] += agent.gamma * agent.policy.predict_values(observation).item()
    return rewards


def check_finite(agent: OnPolicyAlgorithm, env: VecEnv, what: str, values: Any, first: int = 0) -> None:
    """Raise where a value of any environment from `first` on, shape (n, ...), is NaN or infinite.

    Raises:
        NonFiniteError: naming the environment and the step.
    """
    parts = values if isinstance(values, dict) else {"": values}
    for key, array in parts.items():
        finite = np.isfinite(array)
        if finite.all():
            continue
        row = int(np.argwhere(~finite)[0, 0])
        index = first + row
        spec = env.get_attr("spec", index)[0]
        name = spec.id if spec is not None else "an unregistered environment"
        raise NonFiniteError(
            f"{name} (environment {index} of {env.num_envs}) met a non-finite {what}"
            f"{f' {key!r}' if key else ''} at step {agent.num_timesteps}: {array[row]}. No parameter "
            f"has changed since the last update; check the {'policy' if what == 'action' else 'environment'}."
        )
