"""Catch-v0 on tensors."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.tasks.catch import STAY, WHITE
from envs.tensor.gymnasium_task import GymnasiumTask


class TensorCatch(GymnasiumTask):
    """See `Catch`; the states are (the ball's row, the ball's column, the paddle's column) as (3, N)."""

    SPEC_ID = "Catch-v0"

    def prepare(self) -> None:
        """Draw an image for each cell of the grid, in which only that cell is white."""
        m = self.model
        cells = m.rows * m.columns
        images = (
            torch.eye(cells, dtype=torch.uint8, device=self.device).mul_(WHITE).view(cells, m.rows, m.columns)
        )
        images = images.repeat_interleave(m.cell, 1).repeat_interleave(m.cell, 2)
        self._images = images.unsqueeze(-1)

    def initial_states(self) -> Tensor:
        """Draw the balls' columns; the paddles are in the middle."""
        states = torch.zeros(3, self.num_envs, dtype=torch.int64, device=self.device)
        states[1].random_(0, self.model.columns, generator=self.generator)
        states[2].fill_(self.model.columns // 2)
        return states

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Move the paddles, then the balls."""
        row, column, paddle = self.rows
        paddle = (paddle + actions).sub_(STAY).clamp_(0, self.model.columns - 1)
        row = row + 1
        landed = row == self.model.rows - 1
        rewards = (paddle == column).to(self.dtype).mul_(2).sub_(1).mul_(landed)
        return torch.stack((row, column, paddle)), rewards, landed

    def observe(self, states: Tensor) -> Tensor:
        """Return the images (N, rows · cell, columns · cell, 1)."""
        row, column, paddle = states.unbind()
        ball = torch.add(column, row, alpha=self.model.columns)
        bottom = paddle + (self.model.rows - 1) * self.model.columns
        return self._images.index_select(0, ball).bitwise_or_(self._images.index_select(0, bottom))

    def show_in_model(self, state: NDArray[Any]) -> None:
        """Give `model` a state (3,)."""
        self.model._ball_row, self.model._ball_column, self.model._paddle = map(int, state)
