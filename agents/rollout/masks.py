"""Read the action masks of environments."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.policy.actor import example_observations
from agents.policy.masks import MaskError, can_mask, checked_masks, choices
from agents.rollout.finite import name_of

METHOD = "action_masks"  # the name of the environment's method, as in sb3-contrib


def has_masks(env: VecEnv) -> bool:
    """Return whether all environments have the method `action_masks`."""
    try:
        return env.has_attr(METHOD)
    except Exception:  # a user's own vector environment may raise any exception if there are no single ones
        return False


def masks_used(agent: Any) -> bool:
    """Return whether an agent uses the masks of its environments; if so, check that it can.

    Raises:
        MaskError: the environments have masks, but the policy cannot use them.
    """
    env, policy = agent.env, agent.policy
    if env is None:  # of a loaded agent; what it was saved with
        return bool(agent.masked)
    if not agent.use_masking or not has_masks(env):
        return False
    off = "or ignore the masks with use_masking=False"
    if not can_mask(policy):
        raise MaskError(
            f"the environment has action masks, and {type(policy).__name__} takes none; use 'MlpPolicy', "
            f"'CnnPolicy' or 'MultiInputPolicy', {off}"
        )
    everything = np.ones((2, sum(choices(agent.action_space))), dtype=bool)
    try:
        policy.get_distribution(example_observations(policy), action_masks=everything)
    except (TypeError, ValueError) as error:
        raise MaskError(
            f"the policy cannot use the environment's action masks: {error}; change it, {off}"
        ) from error
    if agent.verbose >= 1:
        print("Using the environment's action masks; use_masking=False ignores them")
    return True


def masks_of(env: VecEnv, space: spaces.Space, step: int | None = None) -> np.ndarray:
    """Return the present masks of all environments, (n_envs, K) of bool.

    Args:
        env: environments with the method `action_masks`.
        space: the action space.
        step: the number of steps so far, for messages; None if it is not known.

    Raises:
        MaskError: a mask has the wrong shape, or allows no action; the message names the environment.
    """
    given = env.env_method(METHOD)
    try:
        return checked_masks(np.stack(given), space, env.num_envs)
    except ValueError:  # one of them is wrong: find it
        for index, mask in enumerate(given):
            try:
                checked_masks(mask, space, 1)
            except ValueError as error:
                where = f"environment {index} of {env.num_envs}"
                at = "" if step is None else f" at step {step}"
                raise MaskError(f"{METHOD}() of {name_of(env, index)} ({where}){at}: {error}") from None
        raise
