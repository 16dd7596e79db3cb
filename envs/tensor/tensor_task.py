"""What the tensor environments share: time limits, resets and checkpoints."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from envs.tensor.tensor_env import TensorEnv, TensorStep

_NO_LIMIT = torch.iinfo(torch.int64).max


class TensorTask(TensorEnv):
    """A task that is one tensor of states and three functions of it.

    The last axis of `state` is that of the environments, so that a mask (N,) selects among states of any
    shape. A subclass gives the first states, the transition and the observation; this class counts steps,
    applies the time limit, and resets where an episode has ended.

    Attributes:
        state: (..., N), updated in place.
        elapsed: (N,) int64, the number of steps of each current episode.
    """

    def __init__(
        self, num_envs: int, *args: Any, max_episode_steps: int | None = None, **kwargs: Any
    ) -> None:
        """Start the first episodes.

        Args:
            num_envs: The number of environments, N.
            args: The spaces, see `TensorEnv`.
            max_episode_steps: Truncate episodes of this length; None for no limit.
            kwargs: See `TensorEnv`.
        """
        super().__init__(num_envs, *args, **kwargs)
        self.max_episode_steps = max_episode_steps
        self.elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._step_checked = False
        self.prepare()
        self.state = self.initial_states()
        self._check_shape("initial_states", "states", self.state, (*self.state.shape[:-1], num_envs))

    def prepare(self) -> None:
        """Allocate what the other functions need besides `state`; nothing by default."""

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        """The rows of `state` along its first axis, as views."""
        return self.state.unbind()

    @abstractmethod
    def initial_states(self) -> Tensor:
        """Draw new states (..., N), all of them first states of an episode."""

    @abstractmethod
    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the actions make of `state`, which stays as it is.

        Returns:
            The next states (..., N), the rewards (N,) and whether the task ends the episode (N,), as bool.
        """

    @abstractmethod
    def observe(self, states: Tensor) -> Tensor:
        """Return the observations (N, ...) of states (..., N); they may be a view of `states`."""

    def reset(self) -> Tensor:
        """Start a new episode in every environment, and return the first observations (N, ...).

        Raises:
            ValueError: If `observe` returns another shape than that of N observations.
        """
        first = self.initial_states()
        self.state.copy_(first)
        self.elapsed.zero_()
        observations = self.observe(first)
        shape = (self.num_envs, *(self.observation_space.shape or ()))
        self._check_shape("observe", "observations", observations, shape)
        return observations

    def step(self, actions: Tensor) -> TensorStep:
        """Make one step in every environment; see `TensorEnv.step`.

        Raises:
            ValueError: If `advance` returns a wrong shape or type in the first step.
        """
        states, rewards, terminated = self.advance(actions)
        if not self._step_checked:
            self._check_step(states, rewards, terminated)
        self.elapsed += 1
        truncated = self.elapsed >= (self.max_episode_steps or _NO_LIMIT)
        done = terminated | truncated
        self.elapsed.masked_fill_(done, 0)
        # Draw first states for all environments, since only the device knows which episodes have ended.
        following = torch.where(done, self.initial_states(), states)
        self.state.copy_(following)
        return TensorStep(self.observe(following), rewards, terminated, truncated, self.observe(states))

    def _check_step(self, states: Tensor, rewards: Tensor, terminated: Tensor) -> None:
        """Check what `advance` returned; only the first time, since later results are alike."""
        self._check_shape("advance", "states", states, self.state.shape)
        self._check_shape("advance", "rewards", rewards, (self.num_envs,))
        self._check_shape("advance", "terminated", terminated, (self.num_envs,))
        if terminated.dtype != torch.bool:
            raise ValueError(
                f"expected terminated of torch.bool from {type(self).__name__}.advance, got "
                f"{terminated.dtype}; return a comparison, or .bool()"
            )
        self._step_checked = True

    def _check_shape(self, function: str, what: str, given: Any, shape: tuple[int, ...]) -> None:
        """Raise an error if the shape is wrong, which could broadcast without one."""
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if found != tuple(shape):
            raise ValueError(
                f"expected {what} {tuple(shape)} from {type(self).__name__}.{function}, got {found}; the "
                "environments are the last axis of states, and the first of all else"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the states, the numbers of steps and the generator's state."""
        return {
            "state": self.state.clone(),
            "elapsed": self.elapsed.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state of `state_dict`, in place.

        Raises:
            ValueError: If the state is of another task, or of another number of environments.
        """
        for name in ("state", "elapsed"):
            given, own = state[name], getattr(self, name)
            if (given.shape, given.dtype) != (own.shape, own.dtype):
                raise ValueError(
                    f"expected {name} {tuple(own.shape)} of {own.dtype}, got {tuple(given.shape)} of "
                    f"{given.dtype}; make the environments with the arguments that they were saved with"
                )
        self.state.copy_(state["state"])
        self.elapsed.copy_(state["elapsed"])
        self.generator.set_state(state["generator"].cpu())
