"""TwoStateChain-v0 on tensors."""

import torch
from torch import Tensor

from envs.tasks.two_state_chain import STAY, STAY_REWARDS
from envs.tensor.gymnasium_task import GymnasiumTask


class TensorTwoStateChain(GymnasiumTask):
    """See `TwoStateChain`; the states are 0 or 1, as (N,)."""

    SPEC_ID = "TwoStateChain-v0"

    def prepare(self) -> None:
        """Store the rewards."""
        self._stay_rewards = torch.tensor(STAY_REWARDS, dtype=self.dtype, device=self.device)

    def initial_states(self) -> Tensor:
        """Return zeros."""
        return torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stay (0) or move (1)."""
        stays = actions == STAY
        never = torch.zeros_like(stays)
        return torch.where(stays, self.state, 1 - self.state), self._stay_rewards[self.state] * stays, never

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states
