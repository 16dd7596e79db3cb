"""Check what users give recurrent policies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.policy.recurrent.layers import CELLS


def check_arguments(hidden: Any, layers: Any, kwargs: Mapping[str, Any], cell: str) -> None:
    """Check the arguments of the recurrent layers.

    Raises:
        ValueError: one is out of range.
    """
    for name, value in {"lstm_hidden_size": hidden, "n_lstm_layers": layers}.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer ≥ 1, got {value!r:.200}")
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(map(repr, CELLS))}; got {cell!r:.200}")
    if other := set(kwargs) - {"bias", "dropout"}:
        raise ValueError(
            f"lstm_kwargs may have 'bias' and 'dropout', got {', '.join(map(repr, sorted(other)))}; other "
            "options of torch's layers, e.g. bidirectional ones, do not work step by step"
        )


def checked_states(state: Any, zeros: Tensor) -> Tensor:
    """Return recurrent states given to `predict` as a tensor, or zeros if there are none.

    Args:
        state: None, or one array (layers, n, H) per part.
        zeros: of the right shape, dtype and device, (parts, layers, n, H).

    Raises:
        ValueError: the shapes do not fit.
    """
    if state is None:
        return zeros
    shapes = [np.shape(part) for part in state] if isinstance(state, tuple | list | np.ndarray) else state
    if shapes != [(*zeros.shape[1:],)] * len(zeros):
        raise ValueError(
            f"state must be None or what the last predict returned, {len(zeros)} arrays of shape "
            f"{(*zeros.shape[1:],)} (layers, environments, units); got {shapes!r:.200}"
        )
    return torch.as_tensor(np.stack(state), dtype=zeros.dtype, device=zeros.device)


def checked_starts(episode_start: Any, n: int) -> Tensor:
    """Return whether each of n observations starts an episode, (n, 1).

    Raises:
        ValueError: there is not one boolean per observation.
    """
    starts = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start)
    if starts.shape != (n,) or not np.isin(starts, (0, 1)).all():
        raise ValueError(
            f"episode_start must say for each of the {n} observations whether it is the first of an "
            f"episode: {n} booleans; got shape {starts.shape} of {starts.dtype}"
        )
    return torch.as_tensor(starts.astype(bool)).unsqueeze(1)
