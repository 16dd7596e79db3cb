"""Wrap environments in a `VecNormalize`, as the setting `normalize: true` requests."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.policy.normalisation import is_measured
from experiments.terminal import show


def normalised(env: VecEnv, gamma: float = 0.99, normalize: bool | Mapping[str, Any] = True) -> VecNormalize:
    """Return environments whose rewards and continuous observations are normalised.

    Images are not, since image networks expect their range; nor are discrete observations, whose mean has no
    meaning.

    Args:
        env: the environments.
        gamma: the discount of the returns whose standard deviation normalises rewards.
        normalize: true, or arguments of `VecNormalize`, e.g. norm_reward, as in RL Zoo's files.
    """
    options = {"gamma": gamma, **(normalize if isinstance(normalize, Mapping) else {})}
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    keys = [key for key, part in parts.items() if is_measured(part)]
    if not options.pop("norm_obs", True):
        return VecNormalize(env, norm_obs=False, **options)
    if len(keys) < len(parts):
        rest = ", ".join(f"{key!r} ({part})" for key, part in parts.items() if key not in keys)
        show(f"normalize: not of images and choices: {rest}")
    some = keys if isinstance(space, spaces.Dict) and keys else None
    return VecNormalize(env, norm_obs=bool(keys), norm_obs_keys=some, **options)
