"""Restore a run's policy from a checkpoint, without the rest of the agent.

A checkpoint may be untrusted: its tensors and statistics are checked before use. Names of algorithms and
policies are looked up in tables, never imported.
"""

from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from agents.policy.allocation_limit import AllocationLimit
from agents.policy.names import with_classes
from envs.state.vec_env_checkpointer import restore_observation_moments
from experiments.algorithms import agent_class, policy_class
from experiments.normalised import normalised
from experiments.run.checkpoint_schema import check_like
from experiments.settings.run_settings import RunSettings

Checkpoint = tuple[Path, dict[str, Any]]  # as `RunFolder.read_checkpoint` returns it


def restore_policy(
    checkpoint: Checkpoint, settings: RunSettings, env: VecEnv
) -> tuple[ActorCriticPolicy, VecEnv]:
    """Return the policy on the CPU, and `env`, wrapped in the run's `VecNormalize` if it has one.

    The policy predicts as one that SB3's `load` returns. The statistics of the `VecNormalize` are fixed.

    Args:
        checkpoint: a checkpoint of the run.
        settings: the run's settings.
        env: any number of the run's environments.

    Raises:
        ImportError: the algorithm needs sb3-contrib, which is not installed.
        ValueError: the checkpoint does not fit these settings or this environment.
    """
    path, content = checkpoint
    algorithm, options = agent_class(settings.algo), settings.hyperparameters
    if settings.normalize:
        env = normaliser = normalised(env)
        normaliser.training = normaliser.norm_reward = False
    state = content["agent"]["parameters"]["policy"]
    seen = algorithm._wrap_env(env)  # e.g. puts the channels of images first
    try:
        # The initial parameters are random; those of the checkpoint replace them.
        with torch.random.fork_rng(devices=[]), AllocationLimit(state.values()):
            policy: ActorCriticPolicy = policy_class(algorithm, settings.policy)(
                seen.observation_space,
                seen.action_space,
                lambda _: 0.0,  # the learning rate of an unused optimizer
                use_sde=bool(options.get("use_sde")),
                **with_classes(options.get("policy_kwargs") or {}),
            )
    except Exception as error:  # wrong options can raise any exception in a network
        folder = path.parent if path.suffix == ".safetensors" else path.parent.parent
        raise ValueError(
            f"the policy {settings.policy} of {folder / 'config.yaml'} cannot be built for "
            f"{seen.observation_space} ({type(error).__name__}: {error}); restore the run's config.yaml"
        ) from error
    try:
        if settings.normalize:
            restore_observation_moments(normaliser, content["envs"])
        check_like(state, policy.state_dict(), "policy")
        policy.load_state_dict(state)
    except Exception as error:  # an untrusted checkpoint can raise any exception
        raise ValueError(
            f"{path} does not fit the policy that config.yaml describes on {settings.env}: "
            f"{type(error).__name__}: {' '.join(str(error).split()):.500}. Use the version of the environment"
            " that the run was trained with; config.yaml lists the versions of all packages"
        ) from error
    policy.set_training_mode(False)
    return policy, env
