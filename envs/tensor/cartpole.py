"""CartPole-v1 on tensors."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorCartPole(GymnasiumTask):
    """Balance a pole on a cart; the states are (x, ẋ, θ, θ̇) as (4, N)."""

    SPEC_ID = "CartPole-v1"

    def prepare(self) -> None:
        """Fold the constants of the equations of motion, and allocate the derivatives."""
        m = self.model
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self._limits = torch.tensor([[m.x_threshold], [m.theta_threshold_radians]], **options)
        self._left = torch.tensor([-m.force_mag / m.total_mass], **options)
        self._inertia = torch.tensor([m.length * 4.0 / 3.0 / m.gravity], **options)
        self._derivatives = torch.empty(4, self.num_envs, **options)

    @cached_property
    def _velocities(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views: the velocities in `state`, and those, ẍ and θ̈ in the derivatives."""
        _, x_acceleration, _, acceleration = self._derivatives.unbind()
        return self.state[1::2], self._derivatives[::2], x_acceleration, acceleration

    def initial_states(self) -> Tensor:
        """Draw from U(-0.05, 0.05)."""
        states = torch.empty(4, self.num_envs, dtype=self.dtype, device=self.device)
        return states.uniform_(-0.05, 0.05, generator=self.generator)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make an Euler step with the force -10 N (0) or 10 N (1)."""
        m = self.model
        gravity, pole = m.gravity, m.polemass_length / m.total_mass
        _, _, theta, omega = self.rows
        velocities, copied, x_acceleration, acceleration = self._velocities
        sin, cos = theta.sin(), theta.cos()
        push = torch.add(self._left, actions, alpha=2 * m.force_mag / m.total_mass)
        push = torch.addcmul(push, omega * omega, sin, value=pole)
        inertia = torch.addcmul(
            self._inertia, cos, cos, value=-m.length * m.masspole / m.total_mass / gravity
        )
        torch.div(torch.addcmul(sin, cos, push, value=-1 / gravity), inertia, out=acceleration)
        torch.addcmul(push, acceleration, cos, value=-pole, out=x_acceleration)
        copied.copy_(velocities)
        states = torch.add(self.state, self._derivatives, alpha=m.tau)
        outside = states[::2].abs() > self._limits
        fallen = outside[0] | outside[1]
        if m._sutton_barto_reward:
            return states, -fallen.to(self.dtype), fallen
        return states, torch.ones_like(sin), fallen

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states.T
