"""CartPole-v1 on tensors."""

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorCartPole(GymnasiumTask):
    """Balance a pole on a cart; the states are (x, ẋ, θ, θ̇) as (4, N)."""

    SPEC_ID = "CartPole-v1"

    def prepare(self, num_envs: int, device: torch.device, dtype: torch.dtype) -> None:
        """Allocate the states' derivatives, and what is constant."""
        model = self.model
        self._derivatives = torch.empty(4, num_envs, dtype=dtype, device=device)
        self._limits = torch.tensor([model.x_threshold, model.theta_threshold_radians], dtype=dtype)
        self._limits = self._limits.unsqueeze(1).to(device)
        self._left = torch.tensor([-model.force_mag], dtype=dtype, device=device)
        self._inertia = torch.tensor([model.length * 4.0 / 3.0], dtype=dtype, device=device)

    def initial_states(self) -> Tensor:
        """Draw from U(-0.05, 0.05)."""
        states = torch.empty(4, self.num_envs, dtype=self.dtype, device=self.device)
        return states.uniform_(-0.05, 0.05, generator=self.generator)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make an Euler step with the force -10 N (0) or 10 N (1)."""
        m = self.model
        pole, total = m.polemass_length, m.total_mass
        _, _, theta, omega = self.state.unbind()
        sin, cos = theta.sin(), theta.cos()
        force = torch.add(self._left, actions, alpha=2 * m.force_mag)
        push = torch.addcmul(force, omega * omega, sin, value=pole).div_(total)
        inertia = torch.addcmul(self._inertia, cos, cos, value=-m.length * m.masspole / total)
        x_acceleration, acceleration = self._derivatives[1], self._derivatives[3]
        torch.div(torch.addcmul(m.gravity * sin, cos, push, value=-1), inertia, out=acceleration)
        torch.addcmul(push, acceleration, cos, value=-pole / total, out=x_acceleration)
        self._derivatives[::2] = self.state[1::2]
        states = torch.add(self.state, self._derivatives, alpha=m.tau)
        fallen = (states[::2].abs() > self._limits).any(0)
        if m._sutton_barto_reward:
            return states, -fallen.to(self.dtype), fallen
        return states, torch.ones_like(fallen, dtype=self.dtype), fallen

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states.T
