"""The tensor environments that are made by id."""

from collections.abc import Callable
from typing import Any

from envs.errors import UnknownEnvironmentError
from envs.tensor.cartpole import TensorCartPole
from envs.tensor.tensor_env import TensorEnv

# (num_envs, device=..., seed=..., **env_kwargs) -> environments
TensorEnvBuilder = Callable[..., TensorEnv]

TENSOR_ENVS: dict[str, TensorEnvBuilder] = {each.SPEC_ID: each for each in (TensorCartPole,)}


def register_tensor_env(env_id: str, builder: TensorEnvBuilder) -> None:
    """Make a tensor environment available as ``make_vec_env(env_id, n, vec_env="tensor")``.

    Args:
        env_id: The task's id. If it is registered with Gymnasium, too, agents are evaluated there.
        builder: A class or function, called as ``builder(num_envs, device=..., seed=..., **env_kwargs)``.

    Raises:
        ValueError: If the id has a tensor version already.
    """
    if env_id in TENSOR_ENVS:
        raise ValueError(f"{env_id!r} has a tensor version already; choose another id")
    TENSOR_ENVS[env_id] = builder


def make_tensor_env(env_id: str, num_envs: int = 1, **kwargs: Any) -> TensorEnv:
    """Make the tensor version of a task.

    Args:
        env_id: The task's id.
        num_envs: The number of environments, at least 1.
        kwargs: ``device``, ``dtype``, ``seed`` and what the task itself takes.

    Raises:
        UnknownEnvironmentError: If the task has no tensor version.
    """
    if env_id not in TENSOR_ENVS:
        raise UnknownEnvironmentError(
            f"{env_id!r} has no tensor version; those that have one are {', '.join(sorted(TENSOR_ENVS))}. "
            "Use vec_env='auto', or write one and register it with register_tensor_env (see "
            "docs/tensor-environments.md)"
        )
    return TENSOR_ENVS[env_id](num_envs, **kwargs)
