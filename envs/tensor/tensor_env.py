"""The interface of N environments whose states, observations and rewards are tensors on one device."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TensorStep:
    """What one step of N environments returns; all tensors are on the environments' device."""

    observations: Tensor
    """(N, ...) where an episode ended: the first observation of the next one."""
    rewards: Tensor
    """(N,)"""
    terminated: Tensor
    """(N,) bool: the task ended the episode."""
    truncated: Tensor
    """(N,) bool: something else ended it, e.g. a time limit; as in Gymnasium, both may be true."""
    final_observations: Tensor
    """(N, ...) what the step led to, before any reset; equal to `observations` where no episode ended."""


class TensorEnv(ABC):
    """N environments on one device, which reset themselves within the step that ends an episode.

    A `step` never reads from the device: it contains no branch on a tensor's value, updates its state in
    place, and draws from `generator`. It can therefore be captured in a CUDA graph, once the graph knows the
    generator (``torch.cuda.CUDAGraph.register_generator_state``). What it returns shares no memory with the
    state.

    A subclass that forbids actions in some states has a method `action_masks() -> Tensor`, (N, K) of bool on
    the device: whether each action is allowed. The agents then step it through `TensorVecEnv`, on the host.

    Attributes:
        num_envs: the number of environments, N.
        device: where all tensors are.
        dtype: of rewards, and of observations in a space of floats.
        observation_space: of one environment.
        action_space: of one environment; `step` takes N of its elements as one tensor.
        spec_id: id of the task in Gymnasium's registry; None if it has none.
        generator: source of all random numbers, on the device.
        render_mode: None or "rgb_array".
    """

    render_mode: str | None = None

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        spec_id: str | None = None,
        seed: int | None = None,
    ) -> None:
        """Store the attributes, and seed the generator as `seed` does.

        Raises:
            ValueError: If num_envs is less than 1, or dtype is not float16, float32 or float64.
        """
        if num_envs < 1:
            raise ValueError(f"expected num_envs >= 1, got {num_envs}; pass a positive number")
        if dtype not in (torch.float16, torch.float32, torch.float64):  # those that NumPy has, too
            raise ValueError(f"expected dtype torch.float32 or torch.float64, got {dtype!r}")
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.device = torch.empty(0, device=device).device  # "cuda" has an index now, as tensors have
        self.dtype = dtype
        self.spec_id = spec_id
        # The meta device, on which tests look for reads by the host, has no generators.
        self.generator = torch.Generator("cpu" if self.device.type == "meta" else self.device)
        self.seed(seed)

    @abstractmethod
    def reset(self) -> Tensor:
        """Start a new episode in every environment, and return the first observations (N, ...)."""

    @abstractmethod
    def step(self, actions: Tensor) -> TensorStep:
        """Make one step in every environment.

        Args:
            actions: (N,) integers for a Discrete space, else (N, ...), on the environments' device.
        """

    def seed(self, seed: int | None = None) -> None:
        """Seed the generator that all environments share; with None, from the operating system.

        An environment's random numbers depend on N: environment i has no seed of its own.
        """
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of all that later steps and resets depend on.

        Raises:
            StateUnavailableError: If the simulator does not give its state.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state of `state_dict`, in place; the next step continues from it.

        Raises:
            ValueError: If the state is of other environments.
            StateUnavailableError: If the simulator cannot be given a state.
        """

    def render(self, index: int) -> NDArray[np.uint8] | None:
        """Return a frame (height, width, 3) of one environment; None without a render mode."""
        return None

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Release what the environments hold."""
