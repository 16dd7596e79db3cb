"""The networks of part 3, and how many floating-point operations the Fisher operators need on them.

A network has two hidden layers; w1, w2, w3 are the numbers of weights of its layers and W is their sum. With
N states, one matrix product with all weights takes 2 N W operations (FLOP). Gradients with respect to a
layer's inputs are not needed for the first layer. Activations, biases and the dot products of CG are not
counted.

| work                                   | FLOP                                                       |
|----------------------------------------|------------------------------------------------------------|
| ExactFisher: build                     | 2N W (forward)                                             |
| ExactFisher: product                   | 2N (4W - 2 w1) (J v, then Jᵀ u)                            |
| ExactFisher, micro-batches: product    | 2N (5W - 2 w1) (the forward pass again)                    |
| KLHessian: build                       | 2N (3W - w1) (forward, gradient)                           |
| KLHessian: product                     | 2N (6W - 4 w1) (gradient of the graph of the gradient)     |
| sb3-contrib: build                     | 2N (4W + 4 w2 + 8 w3) (2 forward, gradients of 2 functions) |
| sb3-contrib: product                   | 2N (6W - 4 w1 + 2 w2 + 6 w3)                               |
| KroneckerFisher: statistics            | 2N (W + Σ(in+1)² + 2A (W - w1 + Σ out²))                   |
| KroneckerFisher: inverse               | Σ (in+1)³ + out³                                           |
| KroneckerFisher: product with inverse  | Σ 2 out (in+1) (in+1 + out)                                |

Sums are over layers of `in` inputs and `out` outputs; A is the number of actions. CG(k) needs k products.
sb3-contrib differentiates with respect to one parameter at a time and so passes some layers repeatedly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from npg import DiagGaussian

ACTIONS = 6


@dataclass(frozen=True)
class Network:
    """Sizes of a network with two hidden layers."""

    inputs: int
    width: int
    actions: int = ACTIONS

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Return (inputs, outputs) of each layer."""
        return [(self.inputs, self.width), (self.width, self.width), (self.width, self.actions)]

    def __str__(self) -> str:
        return f"{self.inputs}-{self.width}-{self.width}-{self.actions}"


class GaussianActor(nn.Module):
    """A policy with tanh layers and one log standard deviation per action."""

    def __init__(self, network: Network):
        super().__init__()
        first, second, last = (nn.Linear(inputs, outputs) for inputs, outputs in network.layers)
        self.net = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)
        self.log_std = nn.Parameter(torch.zeros(network.actions))

    def forward(self, observations: Tensor) -> DiagGaussian:
        """Return the distributions at observations (N, inputs)."""
        return DiagGaussian(self.net(observations), self.log_std)


@dataclass(frozen=True)
class Problem:
    """A network, a number of states and a device."""

    network: Network
    states: int
    device: torch.device

    @property
    def micro_batch_size(self) -> int:
        """Return the micro-batch of `ExactFisher`: a quarter of the states, at most 16384."""
        return min(16_384, self.states // 4)

    def actor(self) -> GaussianActor:
        """Return the policy, the same on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return GaussianActor(self.network).to(self.device)

    def observations(self) -> Tensor:
        """Return normally distributed observations."""
        return self.normal(self.states, self.network.inputs, seed=1)

    def normal(self, *shape: int, seed: int) -> Tensor:
        """Return normally distributed numbers on the device."""
        source = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=source, device=self.device)


def count_flops(network: Network, states: int) -> dict[str, float]:
    """Return the operations of every piece of work in the table above."""
    layers = network.layers
    first, second, third = (inputs * outputs for inputs, outputs in layers)
    weights = first + second + third
    squares_in = sum((inputs + 1) ** 2 for inputs, _ in layers)
    squares_out = sum(outputs**2 for _, outputs in layers)
    statistics = weights + squares_in + 2 * network.actions * (weights - first + squares_out)
    per_state = {
        "ExactFisher: build": weights,
        "ExactFisher: product": 4 * weights - 2 * first,
        "ExactFisher, micro-batches: product": 5 * weights - 2 * first,
        "KLHessian: build": 3 * weights - first,
        "KLHessian: product": 6 * weights - 4 * first,
        "sb3-contrib: build": 4 * weights + 4 * second + 8 * third,
        "sb3-contrib: product": 6 * weights - 4 * first + 2 * second + 6 * third,
        "KroneckerFisher: statistics": statistics,
    }
    return {work: 2.0 * states * count for work, count in per_state.items()} | {
        "KroneckerFisher: inverse": float(sum((i + 1) ** 3 + o**3 for i, o in layers)),
        "KroneckerFisher: product with inverse": float(sum(2 * o * (i + 1) * (i + 1 + o) for i, o in layers)),
    }
