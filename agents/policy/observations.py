"""Observations as SB3 encodes them."""

from typing import Any

import torch
from gymnasium import spaces

from agents.policy.actions import starts_at_zero
from agents.policy.heads import constant


def count_from_zero(space: spaces.Space, observations: Any) -> Any:
    """Return observations (N, ...), tensors, with choices counted from 0, as one-hot encoding needs them."""
    if isinstance(space, spaces.Dict):
        return {key: count_from_zero(part, observations[key]) for key, part in space.spaces.items()}
    if starts_at_zero(space):
        return observations
    if isinstance(space, spaces.Discrete):
        return observations - int(space.start)
    starts = tuple(space.start.tolist())  # type: ignore[attr-defined]  # of a MultiDiscrete
    return observations - constant(starts, torch.int64, observations.device)
