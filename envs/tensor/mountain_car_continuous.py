"""MountainCarContinuous-v0 on tensors."""

import torch
from torch import Tensor

from envs.tensor.mountain_car import TensorMountainCar


class TensorMountainCarContinuous(TensorMountainCar):
    """As `TensorMountainCar`, with a force in [-1, 1] that is not free, and a reward of 100 at the goal.

    Gymnasium rounds this state to float32 at each step; here it has `dtype`.
    """

    SPEC_ID = "MountainCarContinuous-v0"

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the clipped force; the action's cost is that of the force before clipping."""
        m = self.model
        force = actions[:, 0].to(self.dtype)
        states, reached = self.roll(force.clamp(m.min_action, m.max_action).mul_(m.power))
        return states, torch.mul(force, force).mul_(-0.1).add_(reached, alpha=100), reached
