"""Collect one rollout in a tensor environment without a host read until its end."""

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.rollout.finite import kept_statistics
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from agents.rollout.tensor_rollout import TensorRollout
from agents.rollout.threads import acting_threads, threads


def collect_tensors(
    agent: OnPolicyAlgorithm, env: VecEnv, callback: BaseCallback, buffer: TensorRolloutBuffer, n_steps: int
) -> bool:
    """Fill the buffer with `n_steps` steps of every environment, then its advantages, as `collect` does.

    From equal random numbers the result is that of `collect` in the same environments, up to rounding. The
    host reads nothing from the device until the last step: numbers that are not finite are found at the end
    of the rollout, and the episodes that ended within it are counted there. docs/gpu.md describes the locals
    of callbacks, which are tensors on the device.

    Args:
        agent: the agent.
        env: a vector environment over tensor environments on the agent's device, its `tensor_env`.
        callback: called as in `collect`.
        buffer: the agent's buffer.
        n_steps: T.

    Returns:
        Whether the rollout is complete; False if a callback ended the training.

    Raises:
        NonFiniteError: a number is not finite; the message names the environment and the step.
    """
    agent.policy.set_training_mode(False)
    buffer.reset()
    if agent.use_sde:
        agent.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    listens = has_listener(callback)
    with kept_statistics(agent), threads(acting_threads(agent.policy, env.num_envs)):
        rollout = TensorRollout(agent, env, buffer)
        for t in range(n_steps):
            if agent.use_sde and agent.sde_sample_freq > 0 and t % agent.sde_sample_freq == 0:
                agent.policy.reset_noise(env.num_envs)
            rollout.step()
            if listens:
                callback.update_locals({**rollout.seen(), "callback": callback, "n_steps": t})
            if not callback.on_step():
                rollout.settle()
                return False
            rollout.follow_policy()
        rollout.settle()
        rollout.write_advantages()
    if listens:
        callback.update_locals({**rollout.seen(), "callback": callback, "n_steps": n_steps})
    callback.on_rollout_end()
    return True


def has_listener(callback: BaseCallback) -> bool:
    """Return whether a callback is more than SB3's stand-in for none."""
    if isinstance(callback, CallbackList):
        return any(map(has_listener, callback.callbacks))
    return not (isinstance(callback, ConvertCallback) and callback.callback is None)
