"""GaussianBandit-v0 on tensors."""

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorGaussianBandit(GymnasiumTask):
    """See `GaussianBandit`; the only state is 1."""

    SPEC_ID = "GaussianBandit-v0"

    def prepare(self) -> None:
        """Store the target."""
        self._target = torch.tensor(self.model.target, dtype=self.dtype, device=self.device)

    def initial_states(self) -> Tensor:
        """Return ones (1, N)."""
        return torch.ones(1, self.num_envs, dtype=self.dtype, device=self.device)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rewards -‖action - target‖²; every episode ends."""
        error = actions.to(self.dtype) - self._target
        ended = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return self.state.clone(), (error * error).sum(1).neg_(), ended

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states.T
