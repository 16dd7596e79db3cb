"""Pendulum-v1 on tensors."""

import math

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorPendulum(GymnasiumTask):
    """Swing up a pendulum and hold it there; the states are (θ, ω) as (2, N). Only the time limit ends it."""

    SPEC_ID = "Pendulum-v1"

    def prepare(self) -> None:
        """Allocate what is constant; Gymnasium renders the last torque, which is left out here."""
        self._bounds = torch.tensor([[math.pi], [1.0]], dtype=self.dtype, device=self.device)
        self._never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.model.last_u = None

    def initial_states(self) -> Tensor:
        """Draw the angles from U(-π, π) and the angular velocities from U(-1, 1)."""
        states = torch.empty(2, self.num_envs, dtype=self.dtype, device=self.device)
        return states.uniform_(-1, 1, generator=self.generator).mul_(self._bounds)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the clipped torque; the cost is that of the state before it."""
        m = self.model
        theta, omega = self.rows
        torque = actions[:, 0].to(self.dtype).clamp(-m.max_torque, m.max_torque)
        angle = torch.remainder(theta + math.pi, 2 * math.pi).sub_(math.pi)
        cost = (angle * angle).add_(omega * omega, alpha=0.1).add_(torque * torque, alpha=0.001)
        next_omega = torch.add(omega, theta.sin(), alpha=3 * m.g / (2 * m.l) * m.dt)
        next_omega.add_(torque, alpha=3 / (m.m * m.l**2) * m.dt).clamp_(-m.max_speed, m.max_speed)
        states = torch.stack((torch.add(theta, next_omega, alpha=m.dt), next_omega))
        return states, cost.neg_(), self._never.clone()

    def observe(self, states: Tensor) -> Tensor:
        """Return (cos θ, sin θ, ω)."""
        theta, omega = states.unbind()
        return torch.stack((theta.cos(), theta.sin(), omega), 1)
