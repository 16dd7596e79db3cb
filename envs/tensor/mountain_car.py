"""MountainCar-v0 on tensors."""

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask

_GRAVITY = 0.0025


class TensorMountainCar(GymnasiumTask):
    """Drive a car with a weak engine out of a valley; the states are (position, velocity) as (2, N)."""

    SPEC_ID = "MountainCar-v0"

    def initial_states(self) -> Tensor:
        """Draw the positions from U(-0.6, -0.4); the velocities are 0."""
        states = torch.zeros(2, self.num_envs, dtype=self.dtype, device=self.device)
        states[0].uniform_(-0.6, -0.4, generator=self.generator)
        return states

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push to the left (0), not at all (1) or to the right (2); each step costs 1."""
        states, reached = self.roll((actions - 1).to(self.dtype).mul_(self.model.force))
        return states, torch.full_like(states[0], -1.0), reached

    def roll(self, push: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states after a step under a push (N,), and whether they are at the goal."""
        m = self.model
        position, velocity = self.rows
        velocity = torch.sub(velocity + push, torch.cos(3 * position), alpha=_GRAVITY)
        velocity = velocity.clamp_(-m.max_speed, m.max_speed)
        position = (position + velocity).clamp_(m.min_position, m.max_position)
        # The wall on the left stops the car.
        velocity = torch.where(position <= m.min_position, velocity.clamp(min=0), velocity)
        reached = (position >= m.goal_position) & (velocity >= m.goal_velocity)
        return torch.stack((position, velocity)), reached

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states.T
