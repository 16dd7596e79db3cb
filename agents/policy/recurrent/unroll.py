"""A recurrent layer over many steps, with a derivative that is itself a fast linear map.

The Fisher matrix needs products with J and Jᵀ. autograd would record about 50 operations per step for them;
here each product is one loop of a few operations per step, as the derivatives of a step are computed once,
for all steps together.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from agents.policy.recurrent.cells import Cell, Slopes


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The steps of a layer, in packed order.

    Attributes:
        cell: the equations.
        sizes: rows per step, which never increase.
        x: (N, 4H).
        weight: W, transposed, (H, rows).
        before: h and m before every step, (N, H) each.
    """

    cell: type[Cell]
    sizes: list[int]
    x: Tensor
    weight: Tensor
    before: tuple[Tensor, Tensor]

    @cached_property
    def slopes(self) -> Slopes:
        """The derivatives of all steps."""
        return self.cell.slopes(self.x, *self.before, self.weight)

    def push(self, changes: Tensor) -> Tensor:
        """Return the change of all h (N, H) that changes of x (N, 4H) cause, to first order."""
        rows, width = self.weight.shape[1], self.weight.shape[0]
        changes, out = changes.clone(), torch.empty_like(changes[:, :width])
        h = m = changes.new_zeros(self.sizes[0], width)
        for a, new, gates, memory, hidden in self._steps(changes, out):
            n = len(a)
            a[:, :rows].addmm_(h[:n], self.weight)
            blocks = a.view(n, -1, width)
            m = torch.addcmul((gates * blocks[:, : gates.shape[1]]).sum(1), memory, m[:n])
            h = m if hidden is None else torch.addcmul(hidden[1] * blocks[:, -1], hidden[0], m)
            new.copy_(h)
        return out

    def pull(self, gradient: Tensor) -> Tensor:
        """Return the gradient (N, 4H) by x, given that by all h (N, H): the transpose of `push`."""
        rows, width = self.weight.shape[1], self.weight.shape[0]
        out = gradient.new_zeros(self.x.shape)
        by_h, by_m = gradient.new_zeros(2, self.sizes[0], width)
        transposed = self.weight.T
        for a, given, gates, memory, hidden in reversed(self._steps(out, gradient)):
            n = len(a)
            h, m = given + by_h[:n], by_m[:n]
            blocks = a.view(n, -1, width)
            if hidden is None:
                m = m + h
            else:
                m = torch.addcmul(m, hidden[0], h)
                torch.mul(hidden[1], h, out=blocks[:, -1])
            torch.mul(gates, m.unsqueeze(1), out=blocks[:, : gates.shape[1]])
            torch.mul(memory, m, out=by_m[:n])
            torch.mm(a[:, :rows], transposed, out=by_h[:n])
        return out

    def _steps(self, a: Tensor, h: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
        slopes = self.slopes
        hidden: Any = (
            [None] * len(self.sizes) if slopes.hidden is None else slopes.hidden.split(self.sizes, 1)
        )
        parts = (tensor.split(self.sizes) for tensor in (a, h, slopes.gates, slopes.memory))
        return list(zip(*parts, hidden, strict=True))


class Unroll(torch.autograd.Function):
    """All h (N, H), in packed order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, h: Tensor, m: Tensor, sizes: list[int], cell: type[Cell]
    ) -> Tensor:
        """Compute the steps; h and m (S, H) are constants."""
        before, after = [], []
        transposed = weight.T
        for part in x.split(sizes):
            n = len(part)
            before.append((h[:n], m[:n]))
            h, m = cell.step(part, h[:n], m[:n], transposed)
            after.append(h)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            hs, ms = (torch.cat(each) for each in zip(*before, strict=True))
            ctx.unrolled = Unrolled(cell, sizes, x.detach(), transposed.detach(), (hs, ms))
            ctx.save_for_backward(x, weight)
        return torch.cat(after)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients by x and W."""
        unrolled: Unrolled = ctx.unrolled
        by_x: Tensor = Pull.apply(gradient, Linearised.apply(*ctx.saved_tensors), unrolled)
        by_weight = by_x[:, : unrolled.weight.shape[1]].T @ unrolled.before[0]
        return by_x, by_weight, None, None, None, None


class Pull(torch.autograd.Function):
    """`Unrolled.pull` as a linear function of the gradient, whose own derivative is `Unrolled.push`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, linearised: Tensor, unrolled: Unrolled) -> Tensor:
        """Return the gradient by x."""
        ctx.unrolled = unrolled
        return unrolled.pull(gradient)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, changes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the derivative by the gradient; that by the point of linearisation is an error."""
        return ctx.unrolled.push(changes), changes.new_zeros(()), None


class Linearised(torch.autograd.Function):
    """Stand for the dependence of a derivative on x and W, which cannot be differentiated."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        """Return a number that connects x and W to the graph."""
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Raise an error, since second derivatives were requested."""
        raise TypeError(
            "a recurrent layer has no second derivatives by its parameters; ExactFisher and "
            "FiniteDifferenceFisher do not need them"
        )
