"""What the bridges to simulators share."""

from typing import Any

import torch
from torch import Tensor

from envs.state.environment_state import StateUnavailableError
from envs.tensor.tensor_env import TensorEnv


class Simulator(TensorEnv):
    """A simulator with its own random numbers and resets, whose state cannot be saved.

    Whether a step reads from the device is up to the simulator. A resumed run starts new episodes.

    Attributes:
        simulator: the simulator's own object.
    """

    def __init__(self, simulator: Any, *args: Any, observation_key: str | None, **kwargs: Any) -> None:
        """Store the simulator; the other arguments are those of `TensorEnv`, without a seed."""
        self.simulator = simulator
        self._observation_key = observation_key
        self._next_seed: int | None = None
        super().__init__(*args, **kwargs)

    def seed(self, seed: int | None = None) -> None:
        """Seed the simulator at the next reset."""
        self._next_seed = seed

    def copy_observations(self, observations: Any) -> Tensor:
        """Return a copy of the part of the observations that the agent sees; simulators reuse their memory.

        Raises:
            ValueError: If that is not one tensor.
        """
        if isinstance(observations, tuple):  # older ones return (observations, extras)
            observations = observations[0]
        if self._observation_key is not None and not isinstance(observations, Tensor):
            observations = observations[self._observation_key]
        if not isinstance(observations, Tensor):
            keys = f" with the keys {sorted(observations.keys())}" if hasattr(observations, "keys") else ""
            raise ValueError(
                f"expected observations as one tensor (N, ...), got a {type(observations).__name__}{keys}; "
                "choose one by observation_key, or flatten them in a wrapper of the simulator"
            )
        return observations.clone()

    def select(self, ended: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
        """Return rows of `there` where episodes have ended (N,), and of `elsewhere` in all other places."""
        return torch.where(ended.view(-1, *(1,) * (there.ndim - 1)), there, elsewhere)

    def state_dict(self) -> dict[str, Tensor]:
        """Raise an error.

        Raises:
            StateUnavailableError: Always.
        """
        raise StateUnavailableError(f"{type(self.simulator).__name__} does not give its state")

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raise an error.

        Raises:
            StateUnavailableError: Always.
        """
        raise StateUnavailableError(f"{type(self.simulator).__name__} cannot be given a state")

    def close(self) -> None:
        """Close the simulator, if it can be closed."""
        if hasattr(self.simulator, "close"):
            self.simulator.close()
