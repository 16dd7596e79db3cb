"""The tensor environments that are made by id."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.utils import get_device

from envs.errors import UnknownEnvironmentError
from envs.single_env import environment_spec
from envs.tensor.acrobot import TensorAcrobot
from envs.tensor.cartpole import TensorCartPole
from envs.tensor.catch import TensorCatch
from envs.tensor.gaussian_bandit import TensorGaussianBandit
from envs.tensor.linear_quadratic import TensorLinearQuadratic
from envs.tensor.mountain_car import TensorMountainCar
from envs.tensor.mountain_car_continuous import TensorMountainCarContinuous
from envs.tensor.mujoco.ant import TensorAnt
from envs.tensor.mujoco.humanoid import TensorHumanoid
from envs.tensor.mujoco.swimmer import TensorSwimmer
from envs.tensor.mujoco.walkers import TensorHalfCheetah, TensorHopper, TensorWalker2d
from envs.tensor.pendulum import TensorPendulum
from envs.tensor.tensor_env import TensorEnv
from envs.tensor.tensor_vec_env import TensorVecEnv
from envs.tensor.two_state_chain import TensorTwoStateChain
from envs.vector.vec_env_task import VecEnvTask

# (num_envs, device=..., seed=..., **env_kwargs) -> environments
TensorEnvBuilder = Callable[..., TensorEnv]

TENSOR_ENVS: dict[str, TensorEnvBuilder] = {
    task.SPEC_ID: task
    for task in (
        TensorAcrobot,
        TensorAnt,
        TensorCartPole,
        TensorCatch,
        TensorGaussianBandit,
        TensorHalfCheetah,
        TensorHopper,
        TensorHumanoid,
        TensorLinearQuadratic,
        TensorMountainCar,
        TensorMountainCarContinuous,
        TensorPendulum,
        TensorSwimmer,
        TensorTwoStateChain,
        TensorWalker2d,
    )
}


def register_tensor_env(env_id: str, builder: TensorEnvBuilder) -> None:
    """Make a tensor environment available as ``make_vec_env(env_id, n, vec_env="tensor")``.

    If Gymnasium has no task of this id, one tensor environment is registered with it under the id, so that
    agents can be evaluated.

    Args:
        env_id: The task's id.
        builder: A class or function, called as ``builder(num_envs, device=..., seed=..., **env_kwargs)``.

    Raises:
        ValueError: If the id has a tensor version already.
    """
    if env_id in TENSOR_ENVS:
        raise ValueError(f"{env_id!r} has a tensor version already; choose another id")
    TENSOR_ENVS[env_id] = builder
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=partial(_make_one, env_id), disable_env_checker=True)


def _make_one(env_id: str, **kwargs: Any) -> VecEnvTask:
    return VecEnvTask(make_tensor_vec_env(env_id, 1, env_kwargs=kwargs))


def make_tensor_env(
    env_id: str,
    num_envs: int = 1,
    *,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    **kwargs: Any,
) -> TensorEnv:
    """Make the tensor version of a task.

    Args:
        env_id: The task's id.
        num_envs: The number of environments, at least 1.
        device: A device of torch; ``"auto"`` is the GPU if there is one.
        seed: Of the generator that the environments share; None is random.
        kwargs: ``dtype``, and what the task itself takes.

    Raises:
        UnknownEnvironmentError: If the task has no tensor version.
    """
    if env_id not in TENSOR_ENVS:
        raise UnknownEnvironmentError(
            f"{env_id!r} has no tensor version; those that have one are {', '.join(sorted(TENSOR_ENVS))}. "
            "Use vec_env='auto', or write one and register it with register_tensor_env (see "
            "docs/tensor-environments.md)"
        )
    env = TENSOR_ENVS[env_id](num_envs, device=get_device(device), seed=seed, **kwargs)
    env.spec_id = env_id
    return env


def make_tensor_vec_env(
    env_id: str, n_envs: int = 1, *, seed: int | None = None, env_kwargs: dict[str, Any] | None = None
) -> TensorVecEnv:
    """Make the tensor version of a task as an SB3 vector environment; see `envs.make_vec_env`."""
    options = {"device": "auto", **(env_kwargs or {})}
    if seed is None:
        seed = int(np.random.randint(2**31))  # noqa: NPY002 - as SB3
    return TensorVecEnv(make_tensor_env(environment_spec(env_id).id, n_envs, seed=seed, **options))
