"""Actions as a tensor environment receives them."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from agents.policy.actions import starts_at_zero


class TensorActions:
    """Convert sampled actions as `to_environment` does, without a host read.

    Args:
        space: the space of the actions.
        squashed: whether the policy's actions are in [-1, 1], to be scaled to the bounds of a `Box`.
        device: the device of the actions.
    """

    def __init__(self, space: spaces.Space, squashed: bool, device: Any):
        self._space = space
        self._squashed = squashed
        self._start: Tensor | None = None
        if isinstance(space, spaces.Box):
            self._low = torch.as_tensor(space.low, device=device)
            self._high = torch.as_tensor(space.high, device=device)
        elif not starts_at_zero(space):
            self._start = torch.as_tensor(space.start, device=device)  # type: ignore[attr-defined]

    def __call__(self, actions: Tensor) -> Tensor:
        """Return actions (N, ...) in the dtype and within the bounds of their space."""
        if not isinstance(self._space, spaces.Box):
            return actions if self._start is None else actions + self._start
        actions = actions.reshape(-1, *self._low.shape)
        if self._squashed:
            actions = self._low + (0.5 * (actions + 1.0) * (self._high - self._low))
        actions = torch.clamp(actions, self._low, self._high)
        if not self._low.dtype.is_floating_point:
            actions = actions.round()
        return actions.to(self._low.dtype)
