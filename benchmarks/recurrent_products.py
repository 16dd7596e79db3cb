"""Time products with the Fisher matrix of a recurrent policy, for three ways to compute them.

    python benchmarks/recurrent_products.py

The batch is 8 sequences of 128 states with 4 inputs, for an LSTM and two actions. The error is that of a
product in float32, relative to the product in float64 by torch's own layer. docs/memory.md has the results.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from agents.policy.recurrent.layers import LSTM
from agents.policy.recurrent.sequences import Sequences
from npg import Categorical, ExactFisher, FiniteDifferenceFisher, LinearOperator

STEPS, SEQUENCES, INPUTS = 128, 8, 4
REPETITIONS = 20


class Actor(nn.Module):
    """An LSTM and a linear layer.

    Args:
        hidden: units of the LSTM.
        own: whether it is computed by this project's layer, or by torch's.
    """

    def __init__(self, hidden: int, own: bool):
        super().__init__()
        self.layer = LSTM(INPUTS, hidden)
        self.head = nn.Linear(hidden, 2)
        self.own = own

    def forward(self, sequences: Sequences) -> Categorical:
        """Return the distributions at all states."""
        if self.own:
            outputs, _ = self.layer(sequences.observations, sequences.packing, sequences.states)
        else:
            rows = sequences.observations.view(SEQUENCES, STEPS, INPUTS).transpose(0, 1)
            outputs = nn.LSTM.forward(self.layer, rows)[0].transpose(0, 1).flatten(0, 1)
        return Categorical(self.head(outputs))


WAYS: dict[str, tuple[bool, type[LinearOperator]]] = {
    "ExactFisher, this project's layer": (True, ExactFisher),
    "ExactFisher, torch's layer differentiated twice": (False, ExactFisher),
    "FiniteDifferenceFisher, torch's layer": (False, FiniteDifferenceFisher),
}


def fastest(work: Callable[[], Tensor]) -> float:
    """Return the shortest duration in milliseconds."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def main() -> None:
    """Print one row per way and size."""
    torch.set_num_threads(1)
    print("| H | way | ms per product | relative error |\n|---|---|---|---|")
    for hidden in (64, 256):
        torch.manual_seed(0)
        state = Actor(hidden, own=True).state_dict()
        observations = torch.randn(STEPS * SEQUENCES, INPUTS)
        starts = np.zeros((STEPS, SEQUENCES))

        def operator(way: str, dtype: torch.dtype) -> LinearOperator:
            own, make = WAYS[way]
            actor = Actor(hidden, own).to(dtype)  # noqa: B023
            actor.load_state_dict(state)  # noqa: B023
            zeros = torch.zeros(2, 1, SEQUENCES, hidden, dtype=dtype)  # noqa: B023
            return make(actor, Sequences.of_rollout(observations.to(dtype), starts, zeros))  # type: ignore[call-arg]  # noqa: B023

        exact = operator("ExactFisher, torch's layer differentiated twice", torch.float64)
        vector = torch.randn(exact.size)
        expected = exact @ vector.double()
        for way in WAYS:
            fisher = operator(way, torch.float32)
            error = ((fisher @ vector).double() - expected).norm() / expected.norm()
            print(f"| {hidden} | {way} | {fastest(lambda f=fisher: f @ vector):.1f} | {error:.0e} |")  # type: ignore[misc]  # noqa: B023


if __name__ == "__main__":
    main()
