"""Actions as an environment receives them."""

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


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
