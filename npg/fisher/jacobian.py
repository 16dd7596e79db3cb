"""Products with the Jacobian of a module's outputs with respect to its parameters."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

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
        TypeError: the outputs can be differentiated only once.
    """

    def __init__(self, outputs: Coordinates, tensors: Iterable[Tensor]):
        self._tensors = tuple(tensors)
        self._shapes = [z.detach() for z in outputs]
        self._moves = [z.requires_grad for z in outputs]
        self._outputs = [z for z in outputs if z.requires_grad]
        self._cotangents = [torch.zeros_like(z, requires_grad=True) for z in self._outputs]
        with torch.enable_grad():
            self._pulled_back = torch.autograd.grad(
                self._outputs, self._tensors, self._cotangents, create_graph=True, materialize_grads=True
            )
        check_twice_differentiable(self._pulled_back)

    def push_forward(self, tangents: Sequence[Tensor]) -> Coordinates:
        """Return J v, shaped as the outputs; v has one tensor per parameter."""
        reached = [(t, v) for t, v in zip(self._pulled_back, tangents, strict=True) if t.requires_grad]
        if not reached:
            return tuple(torch.zeros_like(z) for z in self._shapes)
        pulled_back, moving = zip(*reached, strict=True)
        pushed = iter(
            torch.autograd.grad(
                pulled_back, self._cotangents, moving, retain_graph=True, materialize_grads=True
            )
        )
        pairs = zip(self._shapes, self._moves, strict=True)
        return tuple(next(pushed) if moves else torch.zeros_like(z) for z, moves in pairs)

    def pull_back(self, cotangents: Coordinates) -> Sequence[Tensor | None]:
        """Return Jᵀ u, one tensor per parameter; None means zeros."""
        moving = [u for u, moves in zip(cotangents, self._moves, strict=True) if moves]
        return torch.autograd.grad(self._outputs, self._tensors, moving, retain_graph=True, allow_unused=True)


def check_twice_differentiable(gradients: Iterable[Tensor]) -> None:
    """Check that gradients can be differentiated once more.

    A function marked with `once_differentiable` leaves a node in their graph that should raise an error. But
    torch prunes that node, and silently takes its part of the derivative as zero.

    Raises:
        TypeError: there is such a function.
    """
    nodes = [g.grad_fn for g in gradients if g.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if type(node).__name__ == "Error":
            raise TypeError(
                "the actor uses a function that can be differentiated only once; use FiniteDifferenceFisher"
            )
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        nodes += new


class DifferenceJacobian:
    """J = ∂outputs/∂parameters, with J v by a forward difference and Jᵀ u by one backward pass.

    For modules that can be differentiated only once, e.g. a fused LSTM.

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
