"""What a callback sees of a step on the device as arrays and infos; the host reads them only if it does."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from agents.rollout.tensor_buffer import TensorRolloutBuffer
from npg import host


class HostArray(NDArrayOperatorsMixin):
    """A tensor that is read as a NumPy array when it is first used, with the operators of one.

    Args:
        tensor: the tensor.
    """

    def __init__(self, tensor: Tensor):
        self._tensor = tensor

    @cached_property
    def _array(self) -> np.ndarray:
        return host.fetch(self._tensor)[0].numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = (each._array if isinstance(each, HostArray) else each for each in inputs)
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._array)

    def __repr__(self) -> str:
        return repr(self._array)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]

    def __len__(self) -> int:
        return len(self._tensor)


class HostInfos(Sequence[dict[str, Any]]):
    """The infos of a step, one dictionary per environment, which are made when they are first used.

    Args:
        buffer: the rollout.
        step: the step's row in it.
        first: the first row that `buffer.tally` does not include.
        make_episode: maps a return and a length to the entry "episode".
    """

    def __init__(
        self,
        buffer: TensorRolloutBuffer,
        step: int,
        first: int,
        make_episode: Callable[[float, float], dict[str, Any]],
    ):
        self._buffer, self._step, self._first, self._make_episode = buffer, step, first, make_episode

    def __len__(self) -> int:
        return self._buffer.n_envs

    def __getitem__(self, index: Any) -> Any:
        return self._infos[index]

    @cached_property
    def _infos(self) -> list[dict[str, Any]]:
        buffer, step = self._buffer, self._step
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": truncated} for truncated in buffer.truncated[step].tolist()
        ]
        rows = slice(self._first, step + 1)
        ends = buffer.starts[rows.start + 1 : rows.stop + 1]
        returns, lengths = (part[-1].tolist() for part in buffer.tally.sums(buffer.rewards[rows], ends))
        for i in np.flatnonzero(ends[-1].tolist()).tolist():
            infos[i]["terminal_observation"] = host.fetch(buffer.final_observations[step, i])[0].numpy()
            infos[i]["episode"] = self._make_episode(returns[i], lengths[i])
        return infos
