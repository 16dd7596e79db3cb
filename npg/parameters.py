"""A module's trainable parameters as one flat vector."""

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor, nn

from npg import host


class FlatParameters:
    """Trainable parameters of a module in `parameters()` order, as one vector of length P.

    This is the only place that flattens or unflattens parameters, and `add_` is the only one that writes a
    policy parameter.

    Args:
        module: its frozen parameters (`requires_grad=False`) are left out.

    Raises:
        ValueError: there is no trainable parameter, or the parameters differ in dtype or device.
    """

    def __init__(self, module: nn.Module):
        named: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError(
                f"{type(module).__name__} has no trainable parameter; "
                "set requires_grad=True on those that a step may move"
            )
        kinds = {(p.dtype, p.device) for p in named.values()}
        if len(kinds) > 1:
            raise ValueError(
                "a flat vector needs parameters of the same dtype and device, got "
                + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
                + "; move the module with .to(dtype=..., device=...)"
            )
        self._hold(named)

    def _hold(self, named: dict[str, Tensor]) -> None:
        self.names = tuple(named)
        self.tensors = tuple(named.values())
        self.sizes = [p.numel() for p in self.tensors]
        self.size = sum(self.sizes)
        self.dtype, self.device = self.tensors[0].dtype, self.tensors[0].device

    def of_module(self, module: str) -> Self:
        """Return the parameters of one submodule, without those of its children."""
        part = copy(self)
        part._hold({name: p for name, p in self.named().items() if name.rpartition(".")[0] == module})
        return part

    @property
    def space(self) -> tuple[int, torch.dtype, torch.device]:
        """Return P, dtype and device, which are arguments of a `LinearOperator` on these vectors."""
        return self.size, self.dtype, self.device

    def named(self) -> dict[str, Tensor]:
        """Return {name: parameter}."""
        return dict(zip(self.names, self.tensors, strict=True))

    def by_module(self) -> dict[str, slice]:
        """Return {name of a module: the slice of its own parameters in the vector}, in order."""
        parts: dict[str, slice] = {}
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            module = name.rpartition(".")[0]
            parts[module] = slice(parts[module].start if module in parts else start, start + size)
            start += size
        return parts

    def copies(self) -> dict[str, Tensor]:
        """Return {name: detached copy of the parameter, with requires_grad=True}."""
        return {name: p.detach().clone().requires_grad_() for name, p in self.named().items()}

    def vector(self) -> Tensor:
        """Return a copy of the parameters, shape (P,)."""
        return self.flatten(self.tensors).detach().clone()

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Concatenate one tensor per parameter; None, autograd's result for an unused one, means zeros."""
        pairs = zip(tensors, self.tensors, strict=True)
        dense = (torch.zeros_like(p) if t is None else t.to_dense() if t.is_sparse else t for t, p in pairs)
        return torch.cat([t.reshape(-1) for t in dense])

    def unflatten(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Split a vector (P,) into views shaped as the parameters.

        Raises:
            ValueError: the vector is not of shape (P,).
        """
        if vector.shape != (self.size,):
            raise ValueError(f"expected a vector of shape ({self.size},), got {vector.shape}")
        parts = zip(torch.split(vector, self.sizes), self.tensors, strict=True)
        return tuple(part.view_as(p) for part, p in parts)

    def displaced(self, displacement: Tensor) -> dict[str, Tensor]:
        """Return {name: parameter + its part of the displacement (P,)} as new tensors."""
        parts = self.unflatten(displacement)
        sums = torch._foreach_add([p.detach() for p in self.tensors], list(parts))
        return dict(zip(self.names, sums, strict=True))

    def add_(self, displacement: Tensor, *, known_finite: bool = False) -> None:
        """Add a displacement (P,) to the parameters, all of them or none.

        Args:
            displacement: (P,).
            known_finite: skip the check, which takes a host read. Use it for the displacement of an accepted
                `PolicyStep`, which was evaluated at the new parameters.

        Raises:
            FloatingPointError: a parameter would become NaN or infinite; none was changed.
        """
        new = self.displaced(displacement)
        if not known_finite:
            finite = host.read(**{name: value.isfinite().all() for name, value in new.items()})
            if bad := [name for name in new if not finite[name]]:
                raise FloatingPointError(
                    f"the step would make {', '.join(bad)} non-finite, and no parameter was changed; lower "
                    "the step size"
                )
        with torch.no_grad():
            # One call into C++, so that a Ctrl-C falls before or after it, never between two tensors.
            torch._foreach_copy_(self.tensors, tuple(new.values()))
