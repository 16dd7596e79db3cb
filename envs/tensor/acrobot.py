"""Acrobot-v1 on tensors."""

import math

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorAcrobot(GymnasiumTask):
    """Swing up two links, of which only the joint between them is driven; states (θ₁, θ₂, ω₁, ω₂) as (4, N).

    The equations of motion are those of Sutton and Barto's book, Gymnasium's default.
    """

    SPEC_ID = "Acrobot-v1"

    def prepare(self) -> None:
        """Collect the constants of the equations of motion."""
        m = self.model
        half1, half2, mass1, mass2 = m.LINK_COM_POS_1, m.LINK_COM_POS_2, m.LINK_MASS_1, m.LINK_MASS_2
        self._coupling = mass2 * m.LINK_LENGTH_1 * half2
        self._inertia2 = mass2 * half2**2 + m.LINK_MOI
        self._inertia1 = mass1 * half1**2 + mass2 * m.LINK_LENGTH_1**2 + m.LINK_MOI + self._inertia2
        self._weight1 = (mass1 * half1 + mass2 * m.LINK_LENGTH_1) * 9.8
        self._weight2 = mass2 * half2 * 9.8
        self._max_speeds = torch.tensor([[m.MAX_VEL_1], [m.MAX_VEL_2]], dtype=self.dtype, device=self.device)

    def initial_states(self) -> Tensor:
        """Draw from U(-0.1, 0.1)."""
        states = torch.empty(4, self.num_envs, dtype=self.dtype, device=self.device)
        return states.uniform_(-0.1, 0.1, generator=self.generator)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make one step of the classical Runge-Kutta method, with the torque -1, 0 or 1."""
        torque, dt, start = (actions - 1).to(self.dtype), self.model.dt, self.state
        k1 = self._derivatives(start, torque)
        k2 = self._derivatives(torch.add(start, k1, alpha=dt / 2), torque)
        k3 = self._derivatives(torch.add(start, k2, alpha=dt / 2), torque)
        k4 = self._derivatives(torch.add(start, k3, alpha=dt), torque)
        states = torch.add(start, k1.add_(k4).add_(k2.add_(k3), alpha=2), alpha=dt / 6)
        angles, speeds = states[:2], states[2:]
        angles.sub_(torch.round(angles / (2 * math.pi)), alpha=2 * math.pi)
        torch.clamp(speeds, -self._max_speeds, self._max_speeds, out=speeds)
        reached = angles[0].cos() + angles.sum(0).cos() < -1.0
        return states, reached.to(self.dtype) - 1, reached

    def _derivatives(self, states: Tensor, torque: Tensor) -> Tensor:
        """Return the derivatives (4, N) of states (4, N) under a torque (N,)."""
        theta1, theta2, omega1, omega2 = states.unbind()
        c, inertia2 = self._coupling, self._inertia2
        derivatives = torch.empty_like(states)
        derivatives[:2] = states[2:]
        cos2, c_sin2 = theta2.cos(), theta2.sin().mul_(c)
        d1, d2 = torch.add(self._inertia1, cos2, alpha=2 * c), torch.add(inertia2, cos2, alpha=c)
        phi2 = torch.sin(theta1 + theta2).mul_(self._weight2)
        centrifugal = c_sin2 * omega2 * torch.add(omega2, omega1, alpha=2)
        phi1 = torch.add(phi2 - centrifugal, theta1.sin(), alpha=self._weight1)
        ratio = d2 / d1
        force = torch.addcmul(torque - phi2, ratio, phi1).sub_(c_sin2 * omega1 * omega1)
        torch.div(force, torch.sub(inertia2, d2 * ratio), out=derivatives[3])
        torch.div(torch.addcmul(phi1, d2, derivatives[3]).neg_(), d1, out=derivatives[2])
        return derivatives

    def observe(self, states: Tensor) -> Tensor:
        """Return (cos θ₁, sin θ₁, cos θ₂, sin θ₂, ω₁, ω₂)."""
        angles = states[:2]
        circles = torch.stack((angles.cos(), angles.sin()), 1).flatten(0, 1)
        return torch.cat((circles, states[2:])).T
