"""Vector environments for SB3, also with states as tensors, and small tasks, most with known solutions.

Importing this package registers the tasks with Gymnasium, so that their ids work wherever
an id is expected, e.g. in ``gymnasium.make`` and SB3.
"""

import gymnasium as gym

from envs.errors import InvalidResultError, MissingExtraError, UnknownEnvironmentError
from envs.factory import make_vec_env, register_vec_env
from envs.masks import ActionMasker
from envs.tasks.catch import Catch
from envs.tasks.constrained_linear_quadratic import ConstrainedLinearQuadratic
from envs.tasks.gaussian_bandit import GaussianBandit
from envs.tasks.hidden_velocity import CartPoleHiddenVelocity
from envs.tasks.linear_quadratic import LinearQuadratic
from envs.tasks.point_hazard import PointHazard
from envs.tasks.two_state_chain import TwoStateChain
from envs.tensor.registry import make_tensor_env, register_tensor_env
from envs.tensor.tensor_env import TensorEnv, TensorStep
from envs.tensor.tensor_task import TensorTask
from envs.tensor.tensor_vec_env import TensorVecEnv
from envs.vec_env_choice import VecEnvChoice, choose_vec_env
from envs.vector.env_pool import EnvPoolVecEnv
from envs.vector.gymnasium_vector import GymnasiumVecEnv

__all__ = [
    "ActionMasker",
    "CartPoleHiddenVelocity",
    "Catch",
    "ConstrainedLinearQuadratic",
    "EnvPoolVecEnv",
    "GaussianBandit",
    "GymnasiumVecEnv",
    "InvalidResultError",
    "LinearQuadratic",
    "MissingExtraError",
    "PointHazard",
    "TensorEnv",
    "TensorStep",
    "TensorTask",
    "TensorVecEnv",
    "TwoStateChain",
    "UnknownEnvironmentError",
    "VecEnvChoice",
    "choose_vec_env",
    "make_tensor_env",
    "make_vec_env",
    "register_tensor_env",
    "register_vec_env",
]

# Episodes of the linear-quadratic tasks and of the chain never terminate: a time limit truncates them.
_TASKS: dict[str, tuple[str, int | None]] = {
    "CartPoleHiddenVelocity-v0": ("envs.tasks.hidden_velocity:CartPoleHiddenVelocity", 500),
    "Catch-v0": ("envs.tasks.catch:Catch", None),
    "ConstrainedLinearQuadratic-v0": (
        "envs.tasks.constrained_linear_quadratic:ConstrainedLinearQuadratic",
        200,
    ),
    "GaussianBandit-v0": ("envs.tasks.gaussian_bandit:GaussianBandit", None),
    "LinearQuadratic-v0": ("envs.tasks.linear_quadratic:LinearQuadratic", 100),
    "PointHazard-v0": ("envs.tasks.point_hazard:PointHazard", 60),
    "TwoStateChain-v0": ("envs.tasks.two_state_chain:TwoStateChain", 100),
}

for _env_id, (_entry_point, _max_episode_steps) in _TASKS.items():
    # Otherwise a reload makes Gymnasium warn that it overrides an environment.
    if _env_id not in gym.registry:
        gym.register(_env_id, entry_point=_entry_point, max_episode_steps=_max_episode_steps)
