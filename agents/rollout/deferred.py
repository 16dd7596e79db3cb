"""Tensors that are computed when they are first read."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class Deferred(Tensor):
    """A tensor that is computed only if it is read.

    Every torch function receives the computed tensor in its place, so readers need no special case.

    Args:
        compute: returns the tensor; called at most once.
    """

    _compute: Callable[[], Tensor] | None
    _tensor: Tensor | None

    @staticmethod
    def __new__(cls, compute: Callable[[], Tensor]) -> "Deferred":  # noqa: D102
        deferred = torch.Tensor._make_subclass(cls, torch.empty(0))
        deferred._compute, deferred._tensor = compute, None
        return deferred

    def resolve(self, tensor: Tensor | None = None) -> Tensor:
        """Return the tensor; if it has not been computed yet, use the given one instead of computing it."""
        if self._tensor is None:
            assert self._compute is not None
            self._tensor = self._compute() if tensor is None else tensor
            self._compute = None
        return self._tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def resolved(value: Any) -> Any:
            return value.resolve() if isinstance(value, cls) else value

        return func(*tree_map(resolved, args), **tree_map(resolved, kwargs or {}))
