"""The equations of LSTM and GRU, and their derivatives in closed form.

A step maps x (n, 4H), the hidden state h and the memory m (n, H) to a new h and m. With a = x + W h, added to
the first rows of x only if W has fewer than 4H rows, the derivatives of all steps have the form

    dm' = Σ_g A_g da_g + F dm,     dh' = E dm' + B da_o

with one number per row and unit. An LSTM's memory is its cell state; a GRU's memory is h itself.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Slopes:
    """The derivatives of N steps.

    Attributes:
        gates: A, (N, G, H), for the first G blocks of a.
        memory: F, (N, H).
        hidden: E and B, (2, N, H), where B is for the last block of a; None if h is the memory.
    """

    gates: Tensor
    memory: Tensor
    hidden: Tensor | None


class Cell(ABC):
    """The equations of one kind of recurrent layer.

    Attributes:
        parts: number of vectors H in the recurrent state: 2 if it has h and m, 1 if these are the same.
    """

    parts: ClassVar[int]

    @staticmethod
    @abstractmethod
    def inputs(x: Tensor, weight: Tensor, bias: Tensor | None, hidden_bias: Tensor | None) -> Tensor:
        """Return the part of a that does not depend on h, (N, 4H), for inputs x (N, D)."""

    @staticmethod
    @abstractmethod
    def step(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new h and m (n, H) of one step.

        Args:
            x: what `inputs` returned, (n, 4H).
            h: (n, H).
            m: (n, H).
            weight: W, transposed, (H, rows).
        """

    @staticmethod
    @abstractmethod
    def slopes(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> Slopes:
        """Return the derivatives of N steps, with the arguments of `step`."""


class LSTMCell(Cell):
    """Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000); the blocks of a are i, f, g, o."""

    parts = 2

    @staticmethod
    def inputs(x: Tensor, weight: Tensor, bias: Tensor | None, hidden_bias: Tensor | None) -> Tensor:
        """Return the part of a that does not depend on h."""
        return F.linear(x, weight, None if bias is None or hidden_bias is None else bias + hidden_bias)

    @staticmethod
    def step(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return h = o tanh(m) and m = f m + i g."""
        i, f, g, o = torch.addmm(x, h, weight).chunk(4, 1)
        m = torch.addcmul(f.sigmoid() * m, i.sigmoid(), g.tanh())
        return o.sigmoid() * m.tanh(), m

    @staticmethod
    def slopes(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> Slopes:
        """Return the derivatives of N steps."""
        i, f, g, o = torch.addmm(x, h, weight).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        bounded = torch.addcmul(f * m, i, g).tanh()
        gates = torch.stack([g * i * (1 - i), m * f * (1 - f), i * (1 - g * g)], 1)
        return Slopes(gates, f, torch.stack([o * (1 - bounded * bounded), bounded * o * (1 - o)]))


class GRUCell(Cell):
    """Cho et al. 2014, in torch's form; the blocks of a are r, z, and n's part from h and from the input."""

    parts = 1

    @staticmethod
    def inputs(x: Tensor, weight: Tensor, bias: Tensor | None, hidden_bias: Tensor | None) -> Tensor:
        """Return the part of a that does not depend on h."""
        r, z, n = F.linear(x, weight, bias).chunk(3, 1)
        if hidden_bias is None:
            return torch.cat([r, z, torch.zeros_like(n), n], 1)
        of_r, of_z, of_n = hidden_bias.chunk(3)
        return torch.cat([r + of_r, z + of_z, of_n.expand_as(n), n], 1)

    @staticmethod
    def step(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return h = (1 − z) n + z h, twice."""
        r, z, n = torch.addmm(x[:, : weight.shape[1]], h, weight).chunk(3, 1)
        n = torch.addcmul(x[:, weight.shape[1] :], r.sigmoid(), n).tanh()
        h = n + z.sigmoid() * (h - n)
        return h, h

    @staticmethod
    def slopes(x: Tensor, h: Tensor, m: Tensor, weight: Tensor) -> Slopes:
        """Return the derivatives of N steps."""
        r, z, from_h = torch.addmm(x[:, : weight.shape[1]], h, weight).chunk(3, 1)
        r, z = r.sigmoid(), z.sigmoid()
        n = torch.addcmul(x[:, weight.shape[1] :], r, from_h).tanh()
        of_n = (1 - z) * (1 - n * n)
        gates = torch.stack([of_n * from_h * r * (1 - r), (h - n) * z * (1 - z), of_n * r, of_n], 1)
        return Slopes(gates, z, None)
