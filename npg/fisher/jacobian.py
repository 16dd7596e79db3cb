"""Products with the Jacobian of a module's outputs with respect to its parameters."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from npg import host
from npg.distributions import Coordinates
from npg.scaling import power_of_two


class Jacobian:
    """J = ∂outputs/∂parameters, linearised once and then applied many times.

    u ↦ Jᵀu is linear, and *its* transpose is v ↦ Jv. With the graph of Jᵀu kept, every product is therefore
    one backward pass, without a forward pass.

    Args:
        outputs: tensors with a graph. One that depends on no parameter (e.g. a constant scale) has
            derivative 0.
        tensors: the parameters; at least one output depends on them.

    Raises:
        NotTwiceDifferentiableError: the outputs can be differentiated only once.
    """

    def __init__(self, outputs: Coordinates, tensors: Iterable[Tensor]):
        self._tensors = tuple(tensors)
        self._shapes = [z.detach() for z in outputs]
        self._moves = [z.requires_grad for z in outputs]
        self._outputs = [z for z in outputs if z.requires_grad]
        self._cotangents = [torch.zeros_like(z, requires_grad=True) for z in self._outputs]
        with torch.enable_grad():
            pulled_back = torch.autograd.grad(
                self._outputs, self._tensors, self._cotangents, create_graph=True, allow_unused=True
            )
        check_twice_differentiable(self._outputs, pulled_back)
        self._pulled_back = pulled_back

    def push_forward(self, tangents: Sequence[Tensor]) -> Coordinates:
        """Return J v, shaped as the outputs; v has one tensor per parameter."""
        pairs = zip(self._pulled_back, tangents, strict=True)
        reached = [(t, v) for t, v in pairs if t is not None and t.requires_grad]
        if not reached:
            return tuple(torch.zeros_like(z) for z in self._shapes)
        pulled_back, moving = zip(*reached, strict=True)
        pushed = iter(
            torch.autograd.grad(
                pulled_back, self._cotangents, moving, retain_graph=True, materialize_grads=True
            )
        )
        shapes = zip(self._shapes, self._moves, strict=True)
        return tuple(next(pushed) if moves else torch.zeros_like(z) for z, moves in shapes)

    def pull_back(self, cotangents: Coordinates) -> Sequence[Tensor | None]:
        """Return Jᵀ u, one tensor per parameter; None means zeros."""
        moving = [u for u, moves in zip(cotangents, self._moves, strict=True) if moves]
        return torch.autograd.grad(self._outputs, self._tensors, moving, retain_graph=True, allow_unused=True)


class NotTwiceDifferentiableError(TypeError):
    """The gradient of an actor cannot be differentiated."""


def check_twice_differentiable(outputs: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Check that the gradients of outputs can be differentiated once more.

    A function marked with `once_differentiable` leaves a node in the gradients' graph that should raise an
    error. But torch prunes that node, and silently takes its part of the derivative as zero. It does the same
    if a user's backward pass computes outside of autograd, e.g. by NumPy, which leaves no node.

    Raises:
        NotTwiceDifferentiableError: there is such a function.
    """
    reached = [g for g in gradients if g is not None]
    for node in nodes_before(g.grad_fn for g in reached):
        if type(node).__name__ == "Error":
            raise NotTwiceDifferentiableError("a function in it is marked with once_differentiable")
    if any(g.grad_fn is None for g in reached):  # it is 0 where numbers are rounded, else hidden
        for node in nodes_before(z.grad_fn for z in outputs):
            if isinstance(node, BackwardCFunction) or "CppNode" in node.name():
                raise NotTwiceDifferentiableError(
                    f"{node.name()} in it computes a gradient outside of autograd"
                )


def nodes_before(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes of autograd's graph, None being none, and those that they depend on, each once."""
    remaining = [node for node in nodes if node is not None]
    seen = set(remaining)
    while remaining:
        node = remaining.pop()
        yield node
        new = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= new
        remaining += new


class DifferenceJacobian:
    """J = ∂outputs/∂parameters, with J v by a forward difference and Jᵀ u by one backward pass.

    For modules that can be differentiated only once.

    Args:
        outputs: tensors with a graph, at the parameters θ.
        tensors: the parameters.
        displaced: returns the outputs at θ + v, for v with one tensor per parameter.
    """

    def __init__(
        self,
        outputs: Coordinates,
        tensors: Iterable[Tensor],
        displaced: Callable[[Sequence[Tensor]], Coordinates],
    ):
        self._tensors = tuple(tensors)
        self._base = tuple(z.detach() for z in outputs)
        self._moving = [z for z in outputs if z.requires_grad]
        self._moves = [z.requires_grad for z in outputs]
        self._displaced = displaced
        # The error of rounding is eps/h, that of the difference h/2 times a second derivative: h = √eps, in
        # units of the parameters, balances them (Nocedal & Wright 2006, section 8.1).
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._tensors)).detach())
        dtype = host.scalar_dtype(norm.device)
        self._increment = (1 + norm).to(dtype) * torch.finfo(norm.dtype).eps ** 0.5

    def push_forward(self, tangents: Sequence[Tensor]) -> Coordinates:
        """Return (z(θ + h v/‖v‖) − z(θ)) ‖v‖/h."""
        scale = power_of_two(torch.stack(torch._foreach_norm(list(tangents), math.inf)))
        tangents = [v / scale for v in tangents]
        size = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tangents)))
        h = self._increment / torch.where(size > 0, size, 1).to(self._increment)
        with torch.no_grad():
            moved = self._displaced([h * v for v in tangents])
        # torch.where, since a logit of −∞ does not change, but −∞ − (−∞) is NaN.
        pairs = zip(moved, self._base, strict=True)
        return tuple(torch.where(new == old, 0, (new - old) / h * scale) for new, old in pairs)

    def pull_back(self, cotangents: Coordinates) -> Sequence[Tensor | None]:
        """Return Jᵀ u, one tensor per parameter; None means zeros."""
        moving = [u for u, moves in zip(cotangents, self._moves, strict=True) if moves]
        return torch.autograd.grad(self._moving, self._tensors, moving, retain_graph=True, allow_unused=True)
