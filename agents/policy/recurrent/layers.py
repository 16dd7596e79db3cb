"""LSTM and GRU layers over sequences."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.policy.recurrent.cells import Cell, GRUCell, LSTMCell
from agents.policy.recurrent.sequences import Packing
from agents.policy.recurrent.unroll import Unroll


class RecurrentLayers(nn.RNNBase):
    """Layers with torch's parameters, whose products with J and Jᵀ are exact and fast; see `unroll`.

    A subclass also derives from `nn.LSTM` or `nn.GRU`, which make the parameters.
    """

    cell: ClassVar[type[Cell]]

    def forward(  # type: ignore[override]
        self, features: Tensor, packing: Packing | None, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs of N states, (N, H), and new recurrent states.

        Args:
            features: (N, D), sequence by sequence.
            packing: the order of computation; None for sequences of one state.
            states: recurrent states before each sequence, (parts, layers, S, H).

        Returns:
            The outputs, and the recurrent states after the only state of each sequence; if there are longer
            ones, the given recurrent states.
        """
        x = features if packing is None else features[packing.rows]
        new = []
        for layer in range(self.num_layers):
            weight, hidden_weight, *biases = self._of_layer(layer)
            inputs = self.cell.inputs(x, weight, *(biases or (None, None)))
            h, m = states[0, layer], states[-1, layer]
            if packing is None:
                x, m = self.cell.step(inputs, h, m, hidden_weight.T)
                new.append(torch.stack([x, m][: self.cell.parts]))
            else:
                h, m = h[packing.sequences], m[packing.sequences]
                x = Unroll.apply(inputs, hidden_weight, h, m, packing.sizes, self.cell)
        if packing is None:
            return x, torch.stack(new, 1)
        return x[packing.places], states

    def _of_layer(self, layer: int) -> list[Any]:
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        return [getattr(self, f"{name}_l{layer}") for name in names]


class LSTM(RecurrentLayers, nn.LSTM):  # type: ignore[misc]  # another forward
    """Long short-term memory."""

    cell = LSTMCell


class GRU(RecurrentLayers, nn.GRU):  # type: ignore[misc]
    """Gated recurrent units."""

    cell = GRUCell


CELLS: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}
