"""A tensor environment as an SB3 vector environment, with NumPy arrays in and out."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from envs.masks import METHOD
from envs.tensor.tensor_env import TensorEnv
from envs.vector.episode_statistics import EpisodeStatistics


class TensorVecEnv(VecEnv):
    """N environments on one device with the semantics of SB3's vector environments.

    Every step copies its results to the host; code that stays on the device uses `tensor_env` instead. Infos
    have SB3's entries ``TimeLimit.truncated``, ``terminal_observation`` and ``episode``, so that no
    ``Monitor`` is needed (`env_is_wrapped` reports one).

    The environments share one generator: they have no seeds of their own, and their random numbers depend on
    N and on the device.

    Attributes:
        tensor_env: the environments.
    """

    def __init__(self, tensor_env: TensorEnv) -> None:
        """Wrap the environments, which must not be stepped elsewhere while this object steps them.

        Raises:
            ValueError: If an observation is not one tensor.
        """
        if isinstance(tensor_env.observation_space, (spaces.Dict, spaces.Tuple)):
            raise ValueError(
                "the observations of tensor environments must be one tensor, got the space "
                f"{tensor_env.observation_space}; join its parts in one Box"
            )
        self.tensor_env = tensor_env
        self._actions: Any = None
        self._statistics = EpisodeStatistics(tensor_env.num_envs)
        super().__init__(tensor_env.num_envs, tensor_env.observation_space, tensor_env.action_space)

    @property
    def statistics(self) -> EpisodeStatistics:
        """Returns and lengths of the current episodes; who steps `tensor_env` instead has to update them."""
        return self._statistics

    def reset(self) -> VecEnvObs:
        """Reset all environments; after a call of `seed`, seed their generator first.

        Raises:
            ValueError: If options were set for this reset; tensor environments take none.
        """
        if any(self._options):
            raise ValueError("tensor environments take no reset options; set env_kwargs instead")
        if self._seeds[0] is not None:
            self.tensor_env.seed(int(self._seeds[0]))
            self._reset_seeds()
        self._statistics.restart()
        return self._to_host(self.tensor_env.reset())

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step's results; if an episode has ended, the observation is the next episode's first."""
        actions = torch.as_tensor(np.asarray(self._actions), device=self.tensor_env.device)
        step = self.tensor_env.step(actions)
        rewards = step.rewards.cpu().numpy().astype(np.float32)
        dones, infos = self._statistics.step(
            rewards, step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        )
        if dones.any():
            ended = np.flatnonzero(dones)
            rows = torch.as_tensor(ended, device=self.tensor_env.device)
            last = self._to_host(step.final_observations[rows])
            for i, observation in zip(ended.tolist(), last, strict=True):
                infos[i]["terminal_observation"] = observation
        return self._to_host(step.observations), rewards, dones, infos

    def _to_host(self, observations: Tensor) -> NDArray[Any]:
        array = observations.detach().cpu().numpy()
        return np.ascontiguousarray(array, dtype=self.observation_space.dtype)

    def close(self) -> None:
        """Close the environments."""
        self.tensor_env.close()

    def get_state(self) -> dict[str, Any]:
        """Return all that later steps and resets depend on, as plain data, for checkpoints.

        Raises:
            StateUnavailableError: If the environments do not give their state.
        """
        state = self.tensor_env.state_dict()
        return {
            "tensors": {name: tensor.cpu().numpy() for name, tensor in state.items()},
            "statistics": self._statistics.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state of `get_state`; the device must be of the same type.

        Raises:
            ValueError: If the state is of other environments.
            StateUnavailableError: If the environments cannot be given a state.
        """
        self.tensor_env.load_state_dict({name: torch.tensor(each) for name, each in state["tensors"].items()})
        self._statistics.set_state(state["statistics"])

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the tensor environment once per index.

        ``spec`` is Gymnasium's, with the time limit in use.

        Raises:
            AttributeError: If the tensor environment does not have it.
        """
        if attr_name == "spec":
            value: Any = _find_spec(self.tensor_env)
        else:
            value = getattr(self.tensor_env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raise an error: the environments share their attributes, and may have precomputed from them.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"cannot set {attr_name!r} of single tensor environments; {_INSTEAD}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call ``render`` for each index, or return what ``action_masks`` returns for it.

        Raises:
            NotImplementedError: For any other method.
        """
        if method_name == METHOD:
            masks = self.tensor_env.action_masks().cpu().numpy()  # type: ignore[attr-defined]
            return [masks[i] for i in self._get_indices(indices)]
        if method_name != "render":
            raise NotImplementedError(
                f"cannot call {method_name!r} of single tensor environments; {_INSTEAD}"
            )
        return [self.tensor_env.render(i) for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return True for SB3's ``Monitor``, since infos have its entry ``episode``; False for all others."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Return a frame (height, width, 3) of each environment; None without a render mode."""
        return [self.tensor_env.render(i) for i in range(self.num_envs)]


_INSTEAD = "set env_kwargs, use the attribute tensor_env, or use vec_env='dummy'"


def _find_spec(env: TensorEnv) -> EnvSpec | None:
    if env.spec_id is None:
        return None
    spec = copy.copy(gym.registry.get(env.spec_id)) or EnvSpec(env.spec_id)
    spec.max_episode_steps = getattr(env, "max_episode_steps", spec.max_episode_steps)
    return spec
