"""The running statistics of policies: normalisers and batch norm."""

import warnings

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from agents.policy.policies import MlpPolicy
from agents.ranks import ONE, Ranks


def warn_of_two_normalisers(policy: ActorCriticPolicy, outer: VecNormalize | None, stacklevel: int) -> None:
    """Warn if a policy normalises what a `VecNormalize` has normalised already."""
    if outer is None or not isinstance(policy, MlpPolicy):
        return
    observations, returns = policy.observation_normaliser, policy.return_moments
    if (outer.norm_obs and observations) or (outer.norm_reward and returns):
        warnings.warn(
            "VecNormalize and the policy normalise the same numbers; leave normalize_observations and "
            "normalize_returns out of policy_kwargs, or VecNormalize out of the environments",
            UserWarning,
            stacklevel=stacklevel,
        )


def has_batch_norm(policy: ActorCriticPolicy) -> bool:
    """Return whether a policy has layers of batch norm."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in policy.modules())


def observe(policy: ActorCriticPolicy, observations: PyTorchObs, actions: Tensor, ranks: Ranks = ONE) -> None:
    """Update the statistics of a policy's normaliser and batch norm with N transitions."""
    if isinstance(policy, MlpPolicy):
        policy.observe(observations, ranks)
    if len(actions) > 1 and has_batch_norm(policy):  # of a single state, batch norm has no variance
        policy.set_training_mode(True)
        with torch.no_grad():
            policy.evaluate_actions(observations, actions)
