"""Collecting trajectories."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from agents.acting import Acting, acting
from agents.deferred import Deferred
from agents.policies import MlpPolicy
from agents.threads import acting_threads, threads
from agents.trajectories import Step, Trajectories

# Of VecNormalize; obs_rms is missing where observations are left as they are.
RUNNING_STATISTICS = ("obs_rms", "ret_rms", "returns")

# A forward of the user's own may draw actions in a way of its own.
STANDARD_FORWARD = (ActorCriticPolicy.forward, MlpPolicy.forward)


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

    Gives what SB3's `collect_rollouts` gives, up to rounding, with callbacks called in its order and with its
    local names. A step only acts: the policy does not change within a rollout, so that values,
    log-probabilities and the bootstraps of cut episodes follow in a few large batches at its end. A
    callback that reads `values` or `log_probs` has them computed there and then.

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
    normaliser = unwrap_vec_normalize(env)
    state = vars(normaliser) if normaliser else {}
    statistics = copy.deepcopy({key: state[key] for key in RUNNING_STATISTICS if key in state})
    actor = acting(agent.policy)
    trajectories = Trajectories(agent.policy, actor, agent.gamma)
    shared = {
        "self": agent,
        "env": env,
        "callback": callback,
        "rollout_buffer": rollout_buffer,
        "n_rollout_steps": n_rollout_steps,
    }
    callback.on_rollout_start()
    try:
        with threads(acting_threads(agent.policy, env.num_envs)):
            last_obs: Any = agent._last_obs
            check_finite(agent, env, "observation", last_obs)
            for n_steps in range(n_rollout_steps):
                if agent.use_sde and agent.sde_sample_freq > 0 and n_steps % agent.sde_sample_freq == 0:
                    agent.policy.reset_noise(env.num_envs)
                obs_tensor = obs_as_tensor(last_obs, agent.device)
                sampled, values, log_probs, known = act(agent, actor, obs_tensor)
                actions = sampled.cpu().numpy()
                check_finite(agent, env, "action", actions)  # clipping would hide an infinity
                clipped_actions = to_environment(agent, actions)

                new_obs, rewards, dones, infos = env.step(clipped_actions)
                agent.num_timesteps += env.num_envs
                check_finite(agent, env, "reward", rewards)
                check_finite(agent, env, "observation", new_obs)

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
                agent._update_info_buffer(infos, dones)
                check_terminal(agent, env, dones, infos)
                starts: Any = agent._last_episode_starts
                cut = truncated(dones, infos)
                trajectories.add(Step(last_obs, actions, rewards, starts, values, log_probs, known, cut))
                agent._last_obs, agent._last_episode_starts = new_obs, dones
                last_obs = new_obs
    except NonFiniteError:
        state.update(statistics)
        raise
    trajectories.write(rollout_buffer)
    with torch.no_grad():
        values = agent.policy.predict_values(obs_as_tensor(last_obs, agent.device))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(shared | here | {"n_steps": n_rollout_steps, "values": values})
    callback.on_rollout_end()
    return True


@torch.no_grad()
def act(
    agent: OnPolicyAlgorithm, actor: Acting, observations: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return actions, values and log-probabilities at finite observations, and what `actor` knows of them.

    Where the policy acts as SB3's does, values and log-probabilities are deferred.

    Raises:
        NonFiniteError: the policy puts out numbers that are no distribution.
    """
    policy = agent.policy
    try:
        if agent.use_sde or getattr(policy.forward, "__func__", None) not in STANDARD_FORWARD:
            return *policy(observations), None
        actions, known = actor.draw(observations)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "probability tensor" not in str(error):
            raise
        raise NonFiniteError(
            f"the policy gives no action distribution at step {agent.num_timesteps}; look for NaN among its "
            f"parameters, or for weights or log_std too large: {error}"
        ) from error
    actions = actions.reshape((-1, *agent.action_space.shape))  # type: ignore[misc]

    @cache
    def evaluated() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return actor.evaluate(observations, actions, known)

    return actions, Deferred(lambda: evaluated()[0]), Deferred(lambda: evaluated()[1]), known


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


def truncated(dones: np.ndarray, infos: list[dict[str, Any]]) -> dict[int, Any]:
    """Return the last observations of the episodes that were cut short, by environment."""
    last = {
        int(i): infos[i].get("terminal_observation")
        for i in np.flatnonzero(dones)
        if infos[i].get("TimeLimit.truncated", False)
    }
    return {i: observation for i, observation in last.items() if observation is not None}


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
