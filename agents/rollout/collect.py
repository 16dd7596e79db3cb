"""Collecting trajectories."""

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

from agents.rollout.action_sampler import Acting, acting
from agents.rollout.behaviour_weights import AsActed
from agents.rollout.deferred import Deferred
from agents.rollout.finite import NonFiniteError, check_ended, check_finite, kept_statistics
from agents.rollout.trajectories import Step, Trajectories
from agents.threads import acting_threads, threads

# How torch says that parameters of a distribution are none: of its distributions, multinomial and normal.
NO_DISTRIBUTION = ("to satisfy the constraint", "probability tensor", "elements of std")


def collect(
    agent: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill the buffer with `n_rollout_steps` steps of every environment, then its advantages.

    Gives what SB3's `collect_rollouts` gives, up to rounding, with callbacks called in its order and with its
    local names. A step only acts; values, log-probabilities and the bootstraps of cut episodes follow in a
    few large batches at the rollout's end, when the buffer is filled, or where a callback changes the
    policy. A callback that reads `values` or `log_probs` has them computed there and then.

    Differs where SB3 is silent: a number that is not finite stops the run by name before it
    reaches the buffer, with the statistics of a `VecNormalize` put back to the rollout's start.

    Returns:
        False where a callback ended the training.

    Raises:
        NonFiniteError: naming the environment and the step.
    """
    agent.policy.set_training_mode(False)
    new_obs: Any
    rollout_buffer.reset()
    if agent.use_sde:
        agent.policy.reset_noise(env.num_envs)
    shared = {
        "self": agent,
        "env": env,
        "callback": callback,
        "rollout_buffer": rollout_buffer,
        "n_rollout_steps": n_rollout_steps,
    }
    callback.on_rollout_start()
    # After the callback, which may have put another layer or discount in place.
    actor, acted = acting(agent.policy), AsActed(agent.policy)
    trajectories = Trajectories(agent.policy, actor, acted, agent.gamma)
    with kept_statistics(agent), threads(acting_threads(agent.policy, env.num_envs)):
        last_obs: Any = agent._last_obs
        check_finite(agent, env, "observation", last_obs)
        for n_steps in range(n_rollout_steps):
            if agent.use_sde and agent.sde_sample_freq > 0 and n_steps % agent.sde_sample_freq == 0:
                agent.policy.reset_noise(env.num_envs)
            obs_tensor = obs_as_tensor(last_obs, agent.device)
            sampled, values, log_probs, known = act(agent, actor, acted, obs_tensor)
            actions = sampled.cpu().numpy()
            check_finite(agent, env, "action", actions)  # clipping would hide an infinity
            clipped_actions = to_environment(agent, actions)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            agent.num_timesteps += env.num_envs
            check_finite(agent, env, "reward", rewards)
            check_finite(agent, env, "observation", new_obs)
            check_ended(agent, env, dones, infos)

            here = {
                "n_steps": n_steps,
                "obs_tensor": obs_tensor,
                "actions": actions,
                "clipped_actions": clipped_actions,
                "values": values,
                "log_probs": log_probs,
                "new_obs": new_obs,
                "rewards": rewards,
                "dones": dones,
                "infos": infos,
            }
            callback.update_locals(shared | here)
            if not callback.on_step():
                return False
            telling = [i for i, info in enumerate(infos) if "episode" in info or "is_success" in info]
            agent._update_info_buffer([infos[i] for i in telling], dones[telling])
            starts: Any = agent._last_episode_starts
            cut = truncated(dones, infos)
            trajectories.add(Step(last_obs, actions, rewards, starts, values, log_probs, known, cut))
            if acted.moved:
                trajectories.settle()
                acted.keep()
            agent._last_obs, agent._last_episode_starts = new_obs, dones
            last_obs = new_obs
    trajectories.write(rollout_buffer)
    with torch.no_grad():
        values = agent.policy.predict_values(obs_as_tensor(last_obs, agent.device))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(shared | here | {"n_steps": n_rollout_steps, "values": values})
    callback.on_rollout_end()
    return True


@torch.no_grad()
def act(
    agent: OnPolicyAlgorithm, actor: Acting | None, acted: AsActed, observations: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return actions, values and log-probabilities at finite observations, and what `actor` knows of them.

    Where the policy acts as SB3's does, values and log-probabilities are deferred, and those of `acted`.

    Raises:
        NonFiniteError: the policy puts out numbers that are no distribution.
    """
    policy = agent.policy
    try:
        if actor is None:
            return *policy(observations), None
        actions, known = actor.draw(observations)
    except (ValueError, RuntimeError) as error:
        if not any(sign in str(error) for sign in NO_DISTRIBUTION):
            raise  # it is the policy's own
        raise NonFiniteError(
            f"the policy gives no action distribution at step {agent.num_timesteps}; look for NaN among its "
            f"parameters, or for weights or log_std too large: {error}"
        ) from error

    @cache
    def evaluated() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), acted.restored():
            return actor.evaluate(observations, actions, known)

    shaped = actions.reshape((-1, *agent.action_space.shape))  # type: ignore[misc]
    return shaped, Deferred(lambda: evaluated()[0]), Deferred(lambda: evaluated()[1]), known


def to_environment(agent: OnPolicyAlgorithm, actions: np.ndarray) -> np.ndarray:
    """Return the actions as the environment takes them: within the bounds of a Box."""
    if not isinstance(agent.action_space, spaces.Box):
        return actions
    if agent.policy.squash_output:
        return agent.policy.unscale_action(actions)
    return np.clip(actions, agent.action_space.low, agent.action_space.high)


def truncated(dones: np.ndarray, infos: list[dict[str, Any]]) -> dict[int, Any]:
    """Return the last observations of the episodes that were cut short, by environment."""
    last = {
        int(i): infos[i].get("terminal_observation")
        for i in np.flatnonzero(dones)
        if infos[i].get("TimeLimit.truncated", False)
    }
    return {i: observation for i, observation in last.items() if observation is not None}
