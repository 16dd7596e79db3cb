"""Read the entries of `Monitor` and of the vector environment from the infos of a step.

An environment's own entries may have the same names, but other kinds of values; those are ignored.
"""

import warnings
from numbers import Number
from typing import Any

import numpy as np
from gymnasium import spaces

Info = dict[str, Any]


def episode_of(info: Info) -> Info | None:
    """Return the statistics of an episode that `Monitor` recorded, or None."""
    episode = info.get("episode")
    known = isinstance(episode, dict) and all(is_scalar(episode.get(name)) for name in ("r", "l"))
    return episode if known else None


def statistics_of(info: Info) -> Info:
    """Return what SB3 averages for its log: the episode, and whether it was a success."""
    episode: Any = episode_of(info)
    success: Any = info.get("is_success")
    found: Info = {} if episode is None else {"episode": episode}
    return found | {"is_success": float(success)} if is_scalar(success) else found


def last_observations(dones: np.ndarray, infos: list[Info], space: spaces.Space) -> dict[int, Any]:
    """Return {environment: last observation} of the episodes that have ended."""
    found: dict[int, Any] = {}
    for i in np.flatnonzero(dones).tolist():
        last = infos[i].get("terminal_observation")
        if is_observation(last, space):
            found[i] = last
        elif last is not None:
            warnings.warn(
                f"info['terminal_observation'] of environment {i} is not in {space} and is ignored; the "
                "vector environment should write the last observation of an episode there",
                RuntimeWarning,
                stacklevel=2,
            )
    return found


def is_truncated(info: Info) -> bool:
    """Return whether the vector environment says that the episode would have continued."""
    flag = info.get("TimeLimit.truncated")
    return is_scalar(flag) and bool(flag)


def is_scalar(value: Any) -> bool:
    """Return whether a value is one number or bool, of Python, NumPy or torch."""
    return isinstance(value, Number | np.bool) or (
        hasattr(value, "item") and getattr(value, "shape", 0) == ()
    )


def is_observation(value: Any, space: spaces.Space) -> bool:
    """Return whether a value has the keys and shapes of a space, and is numeric."""
    if isinstance(space, spaces.Dict):
        alike = isinstance(value, dict) and value.keys() == space.spaces.keys()
        return alike and all(is_observation(value[key], part) for key, part in space.spaces.items())
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return False
    return array.shape == space.shape and array.dtype.kind in "biuf"
