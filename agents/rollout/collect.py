"""Collect one rollout: act, step the environments, fill the buffer, estimate advantages."""

from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.policy.actions import from_policy
from agents.policy.masks import split
from agents.rollout.action_sampler import ActionSampler, make_sampler
from agents.rollout.behaviour_weights import BehaviourWeights
from agents.rollout.deferred import Deferred
from agents.rollout.finite import check_ended, check_finite, kept_statistics, named_sampling_errors
from agents.rollout.gae import write_advantages
from agents.rollout.infos import is_truncated, last_observations, statistics_of
from agents.rollout.masks import masks_of
from agents.rollout.memory import Memory
from agents.rollout.threads import acting_threads, threads
from agents.rollout.trajectories import Step, Trajectories, inputs_of


def collect(
    agent: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill the buffer with `n_rollout_steps` steps of every environment, then its advantages.

    The result is that of SB3's `collect_rollouts`, up to rounding. Callbacks are called in the same order
    and see the same local names. A step only samples actions; values, log-probabilities and the bootstraps
    of truncated episodes are computed in a few large batches when the rollout ends, or when a callback
    changes the policy. If a callback reads `values` or `log_probs`, these are computed immediately.

    Unlike in SB3, a number that is not finite raises an error before it reaches the buffer, and the
    statistics of a `VecNormalize` are restored to those at the start of the rollout.

    Returns:
        Whether the rollout is complete; False if a callback ended the training.

    Raises:
        NonFiniteError: a number is not finite; the message names the environment and the step.
    """
    agent.policy.set_training_mode(False)
    new_obs: Any
    rollout_buffer.reset()
    if agent.use_sde:
        agent.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    # Only now, since the callback may have replaced a layer or changed the discount.
    sampler, behaviour = make_sampler(agent.policy), BehaviourWeights(agent.policy)
    share = getattr(agent, "share", None)  # of the environments on all ranks
    stepped = env.num_envs if share is None else share.total
    trajectories = Trajectories(agent.policy, sampler, behaviour, agent.gamma)
    memory = Memory.of(agent)
    masked, action_masks = getattr(agent, "masked", False), None
    with kept_statistics(agent), threads(acting_threads(agent.policy, env.num_envs)):
        last_obs: Any = agent._last_obs
        check_finite(agent, env, "observation", last_obs)
        for n_steps in range(n_rollout_steps):
            if agent.use_sde and agent.sde_sample_freq > 0 and n_steps % agent.sde_sample_freq == 0:
                agent.policy.reset_noise(env.num_envs)
            if masked:
                action_masks = masks_of(env, agent.action_space, agent.num_timesteps)
            inputs = inputs_of(last_obs, action_masks, agent.device)
            obs_tensor, _ = split(inputs)
            sampled, values, log_probs, parameters = act(agent, sampler, behaviour, inputs, memory)
            actions = sampled.cpu().numpy()
            check_finite(agent, env, "action", actions)  # clipping would hide an infinity
            clipped_actions = to_environment(agent, actions)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            agent.num_timesteps += stepped
            check_finite(agent, env, "reward", rewards)
            check_finite(agent, env, "observation", new_obs)
            last = last_observations(dones, infos, env.observation_space)
            check_ended(agent, env, dones, infos, last)

            callback.update_locals(locals() | {"self": agent})
            if not callback.on_step():
                return False
            named = [i for i, info in enumerate(infos) if "episode" in info or "is_success" in info]
            agent._update_info_buffer([statistics_of(infos[i]) for i in named], dones[named])
            starts: Any = agent._last_episode_starts
            cut = {i: observation for i, observation in last.items() if is_truncated(infos[i])}
            reached = memory.states if memory is not None and cut else None
            kept = (values, log_probs, parameters, cut, reached, action_masks)
            trajectories.add(Step(last_obs, actions, rewards, starts, *kept))
            if behaviour.changed:
                trajectories.evaluate()
                behaviour.keep()
            agent._last_obs, agent._last_episode_starts = new_obs, dones
            last_obs = new_obs
    trajectories.write(rollout_buffer)
    last_tensor: Any = obs_as_tensor(last_obs, agent.device)
    if memory is not None:
        memory.keep_in(rollout_buffer)
        last_tensor = memory.recall(last_tensor)
    with torch.no_grad():
        values = agent.policy.predict_values(last_tensor)
    write_advantages(rollout_buffer, values, dones, getattr(agent, "critic_lambda", None))
    callback.update_locals(locals() | {"self": agent, "n_steps": n_rollout_steps})
    callback.on_rollout_end()
    return True


@torch.no_grad()
def act(
    agent: OnPolicyAlgorithm,
    sampler: ActionSampler | None,
    behaviour: BehaviourWeights,
    inputs: Any,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return actions, values, log-probabilities and distribution parameters (or None) at n_envs states.

    With a sampler, values and log-probabilities are deferred, to be computed with the weights of `behaviour`.

    Raises:
        NonFiniteError: the policy's output is no valid parameter of a distribution.
    """
    policy = agent.policy
    with named_sampling_errors(agent):
        if memory is not None:
            return *memory.act(inputs), None
        if sampler is None:
            observations, masks = split(inputs)
            return *policy(observations, **masks), None
        actions, parameters = sampler.sample(inputs)

    @cache
    def evaluated() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), behaviour.restored():
            return sampler.evaluate(inputs, actions, parameters)

    shaped = actions.reshape((-1, *agent.action_space.shape))  # type: ignore[misc]
    return shaped, Deferred(lambda: evaluated()[0]), Deferred(lambda: evaluated()[1]), parameters


def to_environment(agent: OnPolicyAlgorithm, actions: np.ndarray) -> np.ndarray:
    """Return the actions as the environment expects them (see `from_policy`)."""
    if isinstance(agent.action_space, spaces.Box) and agent.policy.squash_output:
        actions = agent.policy.unscale_action(actions)
    return from_policy(agent.action_space, actions)
