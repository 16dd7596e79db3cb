"""What K-FAC sees of a network: layers, what enters them, and the gradients at what leaves them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from npg.distributions import Coordinates, Distribution
from npg.policy import evaluate


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map with parameters to train: a Linear or Conv2d module.

    Attributes:
        module: the module, which is never changed.
        weight: whether its weight is to be trained.
        bias: whether its bias is; it is one more input, which is always 1.
    """

    module: nn.Linear | nn.Conv2d
    weight: bool
    bias: bool

    @classmethod
    def of(cls, module: nn.Module, trainable: Sequence[str]) -> "Layer | None":
        """Return the layer of which these parameters are trained, None where no rule for it is known."""
        if not (type(module) is nn.Linear or type(module) is nn.Conv2d):
            return None
        if not {"weight", "bias"}.issuperset(trainable):  # weight_norm, say, trains other tensors
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
        """(D', O): how many inputs, the bias among them, and how many outputs."""
        outputs, *inputs = self.module.weight.shape
        return math.prod(inputs) * self.weight + self.bias, outputs

    def columns(self, inputs: Tensor, states: int) -> Tensor:
        """Return what multiplies the parameters, (N, T, D'), at each of T positions of N states."""
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


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of n states through the actor, seen from its layers.

    Attributes:
        policy: the distribution, with its graph.
        states: n.
        inputs: {layer's name: (n, T, D')}.
        gradients: for every draw, {layer's name: (n, T, O)}: root scores (see `diagonal.py`) at the
            layer's outputs, whose outer products sum over the draws to the Fisher matrix of the outputs, in
            expectation or exactly. A layer that a draw does not reach is missing.
        totals: for every draw, {parameter's name: the same for a parameter, added up over the states}.
    """

    policy: Distribution
    states: int
    inputs: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    totals: list[dict[str, Tensor]]


def pass_through(
    actor: nn.Module,
    layers: Mapping[str, Layer],
    parameters: Mapping[str, Tensor],
    observations: Any,
    *,
    samples: int | None,
    generator: Generator | None,
) -> Pass:
    """Send states through the actor and draw gradients at its layers' outputs.

    Args:
        actor: maps observations to an npg distribution.
        layers: {name of a module: layer}.
        parameters: what else to differentiate by, {name: parameter}.
        observations: n states.
        samples: how many random signs a state weigh its root scores; None for every root score in turn,
            which is exact and costs a pass backward for each of the distribution's coordinates.
        generator: source of the signs, on the policy's device; torch's global one by default.

    Raises:
        ValueError: a layer ran twice, or not at all though its parameters were used, or not with the states
            along its first dimension; or see `npg.policy.evaluate`.
        TypeError: see `npg.policy.evaluate`.
    """
    with torch.enable_grad(), recorded(layers) as records:
        policy = evaluate(actor, observations)
    coordinates = policy.coordinates
    states = coordinates[0].shape[:-1].numel()
    check_recorded(layers, records, policy, states)
    metric = policy.snapshot()
    moving = [i for i, z in enumerate(coordinates) if z.requires_grad]
    names = [name for name, (_, output) in records.items() if output.requires_grad]
    inputs = {name: layers[name].columns(records[name][0], states) for name in names}
    targets = [*(records[name][1] for name in names), *parameters.values()]
    gradients, totals = [], []
    for white in white_noise(metric.coordinates, samples, generator) if targets else ():
        cotangents = metric.fisher_root_product(white)
        drawn = torch.autograd.grad(
            [coordinates[i] for i in moving],
            targets,
            [cotangents[i] for i in moving],
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip([*names, *parameters], drawn, strict=True)
        reached = {name: gradient for name, gradient in pairs if gradient is not None}
        gradients.append(
            {name: layers[name].rows(reached[name], states) for name in names if name in reached}
        )
        totals.append({name: reached[name] for name in parameters if name in reached})
    return Pass(policy, states, inputs, gradients, totals)


@contextmanager
def recorded(layers: Mapping[str, Layer]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record {name: (input, output)} of the layers during a forward pass.

    Raises:
        ValueError: a layer ran twice.
    """
    records: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
            if name in records:
                raise ValueError(
                    f"the layer {name!r} ran twice in one forward pass, and K-FAC's factors know a layer "
                    "used once; use two layers, or ExactFisher"
                )
            records[name] = (args[0] if args else named["input"]).detach(), output
            return output.clone()  # what follows, an in-place ReLU say, may write into this one

        return hook

    handles = [
        # First of the hooks: one of the user's may change the output, which is then no longer the layer's.
        layer.module.register_forward_hook(record(name), prepend=True, with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def check_recorded(
    layers: Mapping[str, Layer],
    records: Mapping[str, tuple[Tensor, Tensor]],
    policy: Distribution,
    states: int,
) -> None:
    """Check that the records tell all that the layers' parameters do to a policy of n states.

    Raises:
        ValueError: naming a layer of which they do not.
    """
    outputs = [z for z in policy.coordinates if z.requires_grad]
    for name, layer in layers.items():
        if name in records:
            shape = records[name][0].shape
            leading = shape[:1] if isinstance(layer.module, nn.Conv2d) else shape[:-1]
            if leading.numel() % states:
                raise ValueError(
                    f"the layer {name!r} saw an input of shape {tuple(shape)} for {states} states; K-FAC "
                    "needs the states along its first dimension. Use ExactFisher"
                )
            continue
        tensors = [p for p in layer.module.parameters() if p.requires_grad]
        ones = [torch.ones_like(z) for z in outputs]
        reached = torch.autograd.grad(outputs, tensors, ones, retain_graph=True, allow_unused=True)
        if any(g is not None for g in reached):
            raise ValueError(
                f"the layer {name!r} did not run, yet its parameters reach the policy; K-FAC sees what a "
                "layer does only when the module itself is called. Call it, or use ExactFisher"
            )


def check_owners(actor: nn.Module) -> None:
    """Check that no parameter to be trained belongs to two modules.

    Raises:
        ValueError: naming the parameters that do.
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
            f"{', '.join(shared)}: used by two modules; K-FAC's factors know a parameter used once. "
            "Give each module its own, or use ExactFisher"
        )


def white_noise(
    coordinates: Coordinates, samples: int | None, generator: Generator | None
) -> Iterator[Coordinates]:
    """Yield white noise shaped as the coordinates: unit vectors in turn, or k draws of random signs / √k."""
    if samples is None:
        for i, z in enumerate(coordinates):
            for k in range(z.shape[-1]):
                white = [torch.zeros_like(other) for other in coordinates]
                white[i][..., k] = 1
                yield tuple(white)
        return
    for _ in range(samples):
        bits = [torch.randint(2, z.shape, generator=generator, device=z.device) for z in coordinates]
        yield tuple((2 * bit - 1).to(z) / samples**0.5 for bit, z in zip(bits, coordinates, strict=True))
