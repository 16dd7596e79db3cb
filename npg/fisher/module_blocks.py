"""The kind of block that each module has in K-FAC's matrix, and its statistics."""

import inspect
import warnings
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from npg.fisher.blocks import Dense, Diagonal
from npg.fisher.exact import metric_sum
from npg.fisher.kronecker import Kronecker
from npg.fisher.layers import Layer
from npg.fisher.linearisation import jacobian_at
from npg.fisher.passes import Pass
from npg.fisher.root_scores import root_scores
from npg.linear_operator import InvertibleOperator
from npg.parameters import FlatParameters

# Parameters that belong to no layer, such as a log standard deviation, get an exact block up to this size.
LARGEST_EXACT_BLOCK = 64


class ModuleBlocks:
    """The modules with trainable parameters, by the kind of their block: factored, exact or diagonal.

    A `UserWarning` names the modules with a diagonal block.

    Args:
        actor: maps observations to an npg distribution.
        parameters: those of the actor.

    Attributes:
        layers: {module's name: layer}, for the modules with a factored block.
    """

    def __init__(self, actor: nn.Module, parameters: FlatParameters):
        self._actor = actor
        self._names = tuple(parameters.by_module())
        self.layers: dict[str, Layer] = {}
        self._exact: dict[str, FlatParameters] = {}
        self._diagonal: dict[str, FlatParameters] = {}
        for name in self._names:
            module, own = actor.get_submodule(name), parameters.of_module(name)
            layer = Layer.of(module, [parameter.rpartition(".")[2] for parameter in own.names])
            is_layer = module is not actor and not any(True for _ in module.children())
            if layer is not None:
                self.layers[name] = layer
            elif not is_layer and own.size <= LARGEST_EXACT_BLOCK:
                self._exact[name] = own
            else:
                self._diagonal[name] = own
        if self._diagonal:
            kinds = {name: type(actor.get_submodule(name)).__name__ for name in self._diagonal}
            listed = ", ".join(
                f"{' and '.join(self._diagonal[name].names)} ({kind})" for name, kind in kinds.items()
            )
            warnings.warn(
                f"no Kronecker factors are known for {listed}: a diagonal block is used, which ignores how "
                "these parameters act together. Use Linear or Conv2d layers without parametrizations, or "
                "ExactFisher",
                UserWarning,
                stacklevel=_level_of_caller(),
            )

    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """Return {module's name: the shapes of its statistics}, in the order of the flat vector."""
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for name in self._names:
            if name in self.layers:
                shapes[name] = [(n, n) for n in self.layers[name].shape]
            elif name in self._exact:
                shapes[name] = [(self._exact[name].size, self._exact[name].size)]
            else:
                shapes[name] = [(self._diagonal[name].size,)]
        return shapes

    def block(self, name: str, *statistics: Tensor) -> InvertibleOperator:
        """Return a module's block, given its statistics."""
        if name in self.layers:
            inputs, outputs = statistics
            return Kronecker(inputs, outputs, split_bias=self.layers[name].split_bias)
        return Dense(*statistics) if name in self._exact else Diagonal(*statistics)

    def tensors_with_a_diagonal(self) -> dict[str, Tensor]:
        """Return {name: parameter} of the modules with a diagonal block."""
        return {name: p for own in self._diagonal.values() for name, p in own.named().items()}

    def sums(self, through: Pass, *, sampled: bool) -> dict[str, list[Tensor]]:
        """Return {module's name: its statistics, summed over the states of a pass}.

        Args:
            through: the pass.
            sampled: include the diagonal blocks, estimated with random signs.
        """
        sums = {}
        for name, layer in self.layers.items():
            sums[name] = [layer.module.weight.new_zeros(n, n) for n in layer.shape]
            inputs, outputs = sums[name]
            if name in through.inputs:  # else the policy does not depend on it
                columns = through.inputs[name].flatten(0, 1)
                inputs.addmm_(columns.T, columns)
            for gradients in through.gradients:
                if name in gradients:
                    rows = gradients[name].flatten(0, 1)
                    outputs.addmm_(rows.T, rows, alpha=through.states / len(rows))
        for name, own in self._diagonal.items() if sampled else ():
            # The signs of different states are uncorrelated: the square of the sum is, in expectation, the
            # sum of the squares.
            drawn = [own.flatten([total.get(key) for key in own.names]) for total in through.totals]
            sums[name] = [torch.stack(drawn).square().sum(0)]
        for name, own in self._exact.items():
            coordinates, named = attrgetter("coordinates"), own.named()
            policy, jacobian = jacobian_at(
                self._actor, through.observations, named, coordinates, policy=through.policy
            )
            product = metric_sum(jacobian, policy, own).product
            units = torch.eye(own.size, dtype=own.dtype, device=own.device)
            sums[name] = [torch.stack([product(unit) for unit in units])]
        return sums

    def exact_diagonals(self, observations: Any, micro_batch_size: int | None) -> dict[str, list[Tensor]]:
        """Return {module's name: its diagonal block, summed over the states}, without random signs."""
        tensors = self.tensors_with_a_diagonal()
        squares = {name: torch.zeros_like(p) for name, p in tensors.items()}
        for rows in root_scores(self._actor, observations, tensors, micro_batch_size) if tensors else ():
            for square, row in zip(squares.values(), rows, strict=True):
                square += row.square().sum((0, 1))
        return {
            name: [own.flatten([squares[key] for key in own.names])] for name, own in self._diagonal.items()
        }


def _level_of_caller() -> int:
    """Return the `stacklevel` of the first caller outside this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("npg."):
        frame, level = frame.f_back, level + 1
    return level
