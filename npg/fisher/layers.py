"""The layers for which K-FAC has factors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map with trainable parameters: a Linear or Conv2d module.

    Attributes:
        module: the module, which is never changed.
        weight: whether its weight is trainable.
        bias: whether its bias is trainable. The bias is treated as the weight of one more input, always 1.
    """

    module: nn.Linear | nn.Conv2d
    weight: bool
    bias: bool

    @classmethod
    def of(cls, module: nn.Module, trainable: Sequence[str]) -> "Layer | None":
        """Return the layer with these trainable parameters, or None if K-FAC has no factors for it."""
        if not (type(module) is nn.Linear or type(module) is nn.Conv2d):
            return None
        if not {"weight", "bias"}.issuperset(trainable):  # e.g. weight_norm trains other tensors
            return None
        if isinstance(module, nn.Conv2d) and (
            module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
        ):
            return None
        return cls(module, "weight" in trainable, "bias" in trainable)

    @property
    def split_bias(self) -> bool:
        """Whether a bias follows the weight in the flat vector."""
        return self.weight and self.bias

    @property
    def shape(self) -> tuple[int, int]:
        """(D', O): the number of inputs, including the bias, and the number of outputs."""
        outputs, *inputs = self.module.weight.shape
        return math.prod(inputs) * self.weight + self.bias, outputs

    def columns(self, inputs: Tensor, states: int) -> Tensor:
        """Return the inputs that multiply the parameters at T positions of N states, (N, T, D')."""
        if isinstance(self.module, nn.Conv2d):
            conv = self.module
            patches = F.unfold(
                inputs,
                conv.kernel_size,
                dilation=conv.dilation,
                padding=conv.padding,  # type: ignore[arg-type]  # no string: see `of`
                stride=conv.stride,
            )
            columns = patches.mT.reshape(states, -1, patches.shape[1])
        else:
            columns = inputs.reshape(states, -1, inputs.shape[-1])
        if self.split_bias:
            return F.pad(columns, (0, 1), value=1.0)
        return columns if self.weight else torch.ones_like(columns[..., :1])

    def rows(self, gradient: Tensor, states: int) -> Tensor:
        """Return the gradient at the output as (N, T, O)."""
        if isinstance(self.module, nn.Conv2d):
            gradient = gradient.movedim(1, -1)
        return gradient.reshape(states, -1, gradient.shape[-1])


def check_owners(actor: nn.Module) -> None:
    """Check that no trainable parameter belongs to two modules.

    Raises:
        ValueError: a parameter does; the message names it.
    """
    owners: dict[int, set[int]] = {}
    names: dict[int, str] = {}
    for prefix, module in actor.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            owners.setdefault(id(parameter), set()).add(id(module))
            names.setdefault(id(parameter), f"{prefix}.{name}".lstrip("."))
    shared = [names[key] for key, modules in owners.items() if len(modules) > 1]
    if shared:
        raise ValueError(
            f"{', '.join(shared)}: used by two modules, but K-FAC needs parameters that are used only once. "
            "Give each module its own parameters, or use ExactFisher"
        )
