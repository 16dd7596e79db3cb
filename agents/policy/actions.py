"""Actions as an environment receives them, and choices as a network counts them."""

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def starts_at_zero(space: spaces.Space) -> bool:
    """Return whether all choices in a space are counted from 0."""
    if isinstance(space, spaces.Dict):
        return all(map(starts_at_zero, space.spaces.values()))
    return not (isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start))


def from_policy(space: spaces.Space, sampled: NDArray) -> NDArray:
    """Return what a policy sampled, whose choices count from 0, as actions (..., *shape) in their space."""
    if starts_at_zero(space):
        return to_space(space, sampled)
    return to_space(space, np.asarray(sampled).astype(np.int64) + space.start)  # type: ignore[attr-defined]


def to_space(space: spaces.Space, actions: NDArray) -> NDArray:
    """Return actions (..., *shape) in the dtype of their space and, for a `Box`, within its bounds.

    If the dtype is an integer type, they are rounded to the nearest integer. NaN stays NaN if the dtype is a
    float type.
    """
    if not isinstance(space, spaces.Box):
        return np.asarray(actions).astype(space.dtype, copy=False)  # type: ignore[arg-type]  # of arrays
    inside = np.asarray(np.clip(actions, space.low, space.high))
    if space.dtype.kind == "f" or inside.dtype == space.dtype:
        return inside.astype(space.dtype, copy=False)
    with np.errstate(invalid="ignore"):
        result = np.rint(inside).astype(space.dtype)
    # Floats cannot represent the bounds of int64: at a bound, the conversion may have overflowed.
    return np.where(inside <= space.low, space.low, np.where(inside >= space.high, space.high, result))
