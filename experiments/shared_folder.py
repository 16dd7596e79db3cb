"""Write and read the folder that `npg share` makes of a run."""

from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from agents.masking import masks_apply
from agents.shared_policy import DOCUMENT, MOMENTS, TENSORS, SharedPolicy, read_shared_policy
from envs.state.vec_env_checkpointer import LOST, NORMALISER
from experiments.evaluation.seeded_episodes import make_env
from experiments.run.atomic_file import replacing
from experiments.run.run_folder import RunFolder
from experiments.run.stored_policy import Checkpoint, restore_policy
from experiments.settings.run_settings import RunSettings


def read_policy(folder: RunFolder, name: str | None = None) -> Checkpoint:
    """Return the policy of a run folder or of a shared one, as a path and a checkpoint's content.

    Args:
        folder: the folder, which may be untrusted.
        name: the name of a run's checkpoint; None for the newest one.

    Raises:
        OSError: a file cannot be read, is a link, or is no regular file.
        ValueError: the folder is damaged, or has no checkpoint of this name.
    """
    if not (folder.path / DOCUMENT).exists():
        return folder.read_checkpoint(name)
    if name is not None:
        raise ValueError(f"{folder.path} was written by npg share: it has one policy; leave --checkpoint out")
    shared = read_shared_policy(folder.path)
    moments: Any = shared.moments.get("", shared.moments)
    content = {
        "agent": {
            "parameters": {"policy": dict(shared.parameters)},
            "moving": {"num_timesteps": shared.steps},
        },
        "envs": {LOST: "shared", NORMALISER: {"obs_rms": moments}},
    }
    return folder.path / TENSORS, content


def write_policy(checkpoint: Checkpoint, settings: RunSettings, spec: Any, out: Path) -> bool:
    """Write policy.json and policy.safetensors into a folder; return whether the policy uses action masks.

    Args:
        checkpoint: a run's checkpoint.
        settings: the run's settings.
        spec: spec of the environment.
        out: the folder.

    Raises:
        OSError: a file cannot be written.
        ValueError: the checkpoint does not fit the settings, or the policy cannot be shared.
    """
    env = make_env(spec, seed=0, n_envs=1, settings=settings)
    try:
        policy, env = restore_policy(checkpoint, settings, env)
        shared = SharedPolicy(
            algorithm=settings.algo,
            policy=settings.policy,
            policy_kwargs=settings.hyperparameters.get("policy_kwargs") or {},
            use_sde=bool(settings.hyperparameters.get("use_sde")),
            steps=checkpoint[1]["agent"]["moving"]["num_timesteps"],
            observation_space=policy.observation_space,
            action_space=policy.action_space,
            parameters=policy.state_dict(),
            **statistics(env),
        )
        masked = masks_apply(policy, env, settings.hyperparameters)
    finally:
        env.close()
    for name, data in shared.files().items():
        with replacing(out / name) as file:
            file.write(data)
    return masked


def statistics(env: Any) -> dict[str, Any]:
    """Return what a `SharedPolicy` stores of a `VecNormalize`."""
    if not (isinstance(env, VecNormalize) and env.norm_obs):
        return {"moments": {}}
    found: Any = env.obs_rms
    parts = found if isinstance(found, dict) else {"": found}
    moments = {key: {name: getattr(part, name) for name in MOMENTS} for key, part in parts.items()}
    return {"moments": moments, "clip": float(env.clip_obs), "epsilon": float(env.epsilon)}
