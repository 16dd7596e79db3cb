"""A pass through an actor that records what K-FAC uses: layers' inputs, and gradients at their outputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from npg.distributions import Distribution
from npg.fisher.layers import Layer
from npg.fisher.root_scores import white_noise
from npg.policy import evaluate


@dataclass(frozen=True, eq=False)
class Pass:
    """The inputs, outputs and gradients of the layers in one pass of n states.

    Attributes:
        observations: the states.
        policy: the distribution, with its graph.
        states: n.
        inputs: {layer's name: (n, T, D')}.
        outputs: {layer's name: what it returned, with its graph}.
        gradients: for every draw, {layer's name: (n, T, O)}: root scores (see `root_scores.py`) with respect
            to the layer's outputs. Summed over the draws, their outer products are the Fisher matrix of the
            outputs, exactly or in expectation. Layers that get no gradient from a draw are missing.
        totals: for every draw, {parameter's name: its root scores, summed over the states}.
    """

    observations: Any
    policy: Distribution
    states: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    totals: list[dict[str, Tensor]]

    def rows_belong_to_states(self, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
        """Return {layer's name: whether rows i T to (i + 1) T at its output affect state i alone, 0-d}.

        Layers with one row per state are left out. The check takes one backward pass: no row of the second
        half of the states may affect the first half.
        """
        half = self.states // 2
        names = [name for name, columns in self.inputs.items() if columns.shape[1] > 1]
        if not names or not half:
            return {}
        first = [z.flatten(0, -2)[:half] for z in self.policy.coordinates if z.requires_grad]
        # The weights differ, since the plain sum of normalised logits may be a constant.
        weights = [torch.ones_like(z).cumsum(-1) for z in first]
        outputs = [self.outputs[name] for name in names]
        found = torch.autograd.grad(first, outputs, weights, retain_graph=True, materialize_grads=True)
        others = {n: layers[n].rows(g, self.states)[half:] for n, g in zip(names, found, strict=True)}
        # Numbers that are not finite are reported when the statistics are checked.
        return {name: ((rows == 0) | ~rows.isfinite()).all() for name, rows in others.items()}


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
        parameters: {name: parameter} to differentiate by as well.
        observations: n states.
        samples: number of sums of a state's root scores, with random signs, to use; None for every root score
            in turn, which is exact and takes one backward pass per coordinate of the distribution.
        generator: source of the signs, on the policy's device; torch's global one by default.

    Raises:
        ValueError: a layer ran twice, or not at all though its parameters were used, or not once per state;
            or see `npg.policy.evaluate`.
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
    outputs = {name: records[name][1] for name in names}
    targets = [*outputs.values(), *parameters.values()]
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
    return Pass(observations, policy, states, inputs, outputs, gradients, totals)


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
                    f"the layer {name!r} ran twice in one forward pass, but K-FAC only works for layers that "
                    "run once; use two layers, or ExactFisher"
                )
            records[name] = (args[0] if args else named["input"]).detach(), output
            return output.clone()  # an in-place operation that follows, e.g. ReLU, may overwrite it

        return hook

    handles = [
        # Run before the user's hooks, which may replace the layer's output.
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
    """Check that the records cover every effect of the layers' parameters on a policy of n states.

    Raises:
        ValueError: they do not; the message names a layer.
    """
    outputs = [z for z in policy.coordinates if z.requires_grad]
    for name, layer in layers.items():
        if name in records:
            shape = records[name][0].shape
            leading = shape[:1] if isinstance(layer.module, nn.Conv2d) else shape[:-1]
            if leading.numel() % states:
                raise ValueError(
                    f"the layer {name!r} got an input of shape {tuple(shape)} for {states} states; K-FAC "
                    "needs the states along its first dimension. Use ExactFisher"
                )
            continue
        tensors = [p for p in layer.module.parameters() if p.requires_grad]
        ones = [torch.ones_like(z) for z in outputs]
        reached = torch.autograd.grad(outputs, tensors, ones, retain_graph=True, allow_unused=True)
        if any(g is not None for g in reached):
            raise ValueError(
                f"the layer {name!r} did not run, yet its parameters reach the policy; K-FAC records a layer "
                "only if the module itself is called. Call it, or use ExactFisher"
            )
