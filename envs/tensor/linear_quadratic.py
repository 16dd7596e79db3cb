"""LinearQuadratic-v0 on tensors."""

import torch
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask


class TensorLinearQuadratic(GymnasiumTask):
    """See `LinearQuadratic`; the states x are (n, N)."""

    SPEC_ID = "LinearQuadratic-v0"

    def prepare(self) -> None:
        """Store the matrices."""
        m = self.model
        self._a, self._b, self._q, self._r = (
            torch.tensor(each, dtype=self.dtype, device=self.device) for each in (m.A, m.B, m.Q, m.R)
        )

    def _normal(self, scale: float) -> Tensor:
        """Draw (n, N) from N(0, scale²)."""
        numbers = torch.empty(len(self._a), self.num_envs, dtype=self.dtype, device=self.device)
        return numbers.normal_(generator=self.generator).mul_(scale)

    def initial_states(self) -> Tensor:
        """Draw from N(0, initial_scale² I)."""
        return self._normal(self.model.initial_scale)

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply u = `actions`; the cost is that of the state before the transition."""
        x, u = self.state, actions.to(self.dtype).T
        cost = (x * (self._q @ x)).sum(0).add_((u * (self._r @ u)).sum(0))
        states = torch.addmm(self._normal(self.model.noise), self._a, x).addmm_(self._b, u)
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return states, cost.neg_(), never

    def observe(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states.T
