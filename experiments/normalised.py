"""Wrap environments in a `VecNormalize`, as the setting `normalize: true` requests."""

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.policy.normalisation import is_measured
from experiments.terminal import show


def normalised(env: VecEnv, gamma: float = 0.99) -> VecNormalize:
    """Return environments whose rewards and continuous observations are normalised.

    Images are not, since image networks expect their range; nor are discrete observations, whose mean has no
    meaning.
    """
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    keys = [key for key, part in parts.items() if is_measured(part)]
    if len(keys) < len(parts):
        rest = ", ".join(f"{key!r} ({part})" for key, part in parts.items() if key not in keys)
        show(f"normalize: not of images and choices: {rest}")
    some = keys if isinstance(space, spaces.Dict) and keys else None
    return VecNormalize(env, gamma=gamma, norm_obs=bool(keys), norm_obs_keys=some)
