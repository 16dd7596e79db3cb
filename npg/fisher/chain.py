"""The Jacobian of a sequence of linear layers with activations between them, computed without autograd.

Layer k maps h_k to z_k = W_k h_k + b_k, followed by the activation h_{k+1} = φ(z_k). Given the h_k, the W_k
and the slopes φ'(z_k), a product with J or Jᵀ is two small matrix products per layer:

    J v:    ż_k = V_k h_k + c_k + W_k ḣ_k,     ḣ_{k+1} = φ'(z_k) ż_k
    Jᵀ u:   V_k = u_kᵀ h_k,   c_k = Σ u_k,     u_{k−1} = φ'(z_{k−1}) (W_kᵀ u_k)

This is autograd's computation, without its overhead and without a graph of the gradient. The layers are found
in the graph of the outputs, so it applies to any module whose forward is such a chain. Whatever follows the
last layer (e.g. the normalisation of logits, or a log-probability) is left to autograd.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from npg.distributions import Coordinates
from npg.fisher.jacobian import Jacobian

LINEAR = "AddmmBackward0"
LEAF = "torch::autograd::AccumulateGrad"
ACTIVATIONS = {
    f"{name}Backward0"
    for name in ("Tanh", "Relu", "Sigmoid", "Elu", "Silu", "Gelu", "LeakyRelu", "Softplus", "Hardtanh")
}


@dataclass(frozen=True, eq=False)
class Link:
    """One linear layer.

    Attributes:
        weight: W, (out, in), a copy made at linearisation.
        inputs: h, (N, in).
        slope: φ'(z) of the activation that follows, (N, out); None if there is none.
        parameters: the indices of W and b among the parameters.
    """

    weight: Tensor
    inputs: Tensor
    slope: Tensor | None
    parameters: tuple[int, int]


class ChainJacobian:
    """J = ∂outputs/∂parameters of a chain; see the module docstring.

    Args:
        links: from the first layer to the last.
        head: the Jacobian of the outputs with respect to the last layer's outputs and the parameters that
            belong to no link.
        others: the indices of those parameters among all parameters.
        count: the number of all parameters.

    Raises:
        RuntimeError: in a product, if the observations have been changed in place since construction.
    """

    def __init__(self, links: Sequence[Link], head: Jacobian, others: Sequence[int], count: int):
        self._links = links
        self._head = head
        self._others = others
        self._count = count
        self._version = links[0].inputs._version

    def push_forward(self, tangents: Sequence[Tensor]) -> Coordinates:
        """Return J v, shaped as the outputs; v has one tensor per parameter."""
        self._check_version()
        moved: Tensor | None = None
        for link in self._links:
            weight, bias = (tangents[i] for i in link.parameters)
            tangent = torch.addmm(bias, link.inputs, weight.T)
            if moved is not None:
                tangent.addmm_(moved, link.weight.T)
            moved = tangent if link.slope is None else tangent.mul_(link.slope)
        assert moved is not None
        return self._head.push_forward([moved, *(tangents[i] for i in self._others)])

    def pull_back(self, cotangents: Coordinates) -> Sequence[Tensor | None]:
        """Return Jᵀ u, one tensor per parameter; None means zeros."""
        self._check_version()
        gradients: list[Tensor | None] = [None] * self._count
        pulled, *rest = self._head.pull_back(cotangents)
        for i, gradient in zip(self._others, rest, strict=True):
            gradients[i] = gradient
        if pulled is None:
            return gradients
        for link in reversed(self._links):
            u = pulled if link.slope is None else pulled * link.slope
            weight, bias = link.parameters
            gradients[weight], gradients[bias] = u.T @ link.inputs, u.sum(0)
            if link is not self._links[0]:
                pulled = u @ link.weight
        return gradients

    def _check_version(self) -> None:
        if self._links[0].inputs._version != self._version:
            raise RuntimeError(
                "the observations were changed in place since the policy was linearised at them; pass a "
                "copy, or build the operator again"
            )


def jacobian_of(outputs: Coordinates, tensors: Iterable[Tensor]) -> Jacobian | ChainJacobian:
    """Return the Jacobian of outputs (with their graph) with respect to tensors, as a chain if possible.

    Raises:
        NotTwiceDifferentiableError: the outputs can be differentiated only once.
    """
    tensors = tuple(tensors)
    chain = _chain(outputs, tensors)
    return Jacobian(outputs, tensors) if chain is None else chain


def _chain(outputs: Coordinates, tensors: tuple[Tensor, ...]) -> ChainJacobian | None:
    place = {id(tensor): i for i, tensor in enumerate(tensors)}
    last, others = _head(outputs, place)
    if last is None:
        return None
    links: list[Link] = []
    node, slope = last, None
    while True:
        parameters = _parameters(node, place)
        inputs = getattr(node, "_saved_mat1", None)
        if parameters is None or inputs is None:
            return None
        weight = tensors[parameters[0]].detach().clone()
        links.append(Link(weight, inputs.detach(), slope, parameters))
        node, slope = _before(node, inputs)
        if node is None:
            break
        if node.name() != LINEAR:
            return None
    seen = [i for link in links for i in link.parameters] + others
    if len(set(seen)) < len(seen):  # a tensor used twice has two derivatives, which autograd adds up
        return None
    head = Jacobian(outputs, [GradientEdge(last, 0), *(tensors[i] for i in others)])  # type: ignore[list-item]
    return ChainJacobian(links[::-1], head, others, len(tensors))


def _head(outputs: Coordinates, place: dict[int, int]) -> tuple[Any, list[int]]:
    """Return the last linear layer, or None if it is not exactly one, and the parameters that follow it."""
    nodes = [z.grad_fn for z in outputs if z.grad_fn is not None]
    seen, layers, others = set(nodes), set(), []
    while nodes:
        node = nodes.pop()
        if node.name() == LINEAR:
            layers.add(node)
            continue
        if node.name() == LEAF and id(node.variable) in place:  # type: ignore[attr-defined]
            others.append(place[id(node.variable)])  # type: ignore[attr-defined]
        new = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= new
        nodes += new
    return (layers.pop() if len(layers) == 1 else None), others


def _parameters(node: Any, place: dict[int, int]) -> tuple[int, int] | None:
    """Return the indices of a layer's weight and bias among the parameters, or None if either is missing."""
    (bias, _), _, (transposed, _) = node.next_functions
    if (
        transposed is None
        or transposed.name() != "TBackward0"
        or (node._saved_alpha, node._saved_beta) != (1, 1)
    ):
        return None
    weight = transposed.next_functions[0][0]
    if any(leaf is None or leaf.name() != LEAF or id(leaf.variable) not in place for leaf in (weight, bias)):
        return None
    if bias.variable.shape != weight.variable.shape[:1]:  # broadcast
        return None
    return place[id(weight.variable)], place[id(bias.variable)]


def _before(node: Any, inputs: Tensor) -> tuple[Any, Tensor | None]:
    """Skip the activations before a layer; return the node before these, and their slope."""
    before, slope = node.next_functions[1][0], None
    while before is not None and before.name() in ACTIVATIONS:
        factor = before(torch.ones_like(inputs)).detach()
        slope = factor if slope is None else slope * factor
        before = before.next_functions[0][0]
    return before, slope
