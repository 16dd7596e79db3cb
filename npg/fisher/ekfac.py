"""EKFAC: K-FAC's eigenvectors with corrected eigenvalues.

K-FAC's block A ⊗ G has the eigenvectors U = U_A ⊗ U_G, and its eigenvalues are the products of those of A and
G. In that basis the diagonal of the true block is

    S = E[(Uᵀ vec(g āᵀ))²],

and U diag(S) Uᵀ is closer to the true block in the Frobenius norm than with any other diagonal, e.g. K-FAC's.
George et al. 2018, "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis".
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from npg import host
from npg.fisher.blocks import BlockDiagonal
from npg.fisher.kfac import KroneckerFisher, check_finite, finite_by_module
from npg.fisher.kronecker import RotatedDiagonal
from npg.fisher.root_scores import NUMBERS_AT_A_TIME
from npg.reduction import Reduce, identity


class EigenvalueCorrectedFisher(BlockDiagonal):
    """K-FAC with corrected eigenvalues; damping adds exactly λI.

    It sends the states through the actor twice, once for the basis U and once for the scales S. The scales
    are means of squares per state, so every layer's input needs the states along its first dimension;
    otherwise a ValueError is raised. Arguments, other errors and the blocks of modules other than layers are
    those of `KroneckerFisher`.

    Attributes:
        kronecker: the Kronecker-factored matrix that the basis is taken from.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        samples: int | None = None,
        generator: Generator | None = None,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        self.kronecker = KroneckerFisher(
            actor,
            observations,
            samples=samples,
            generator=generator,
            micro_batch_size=micro_batch_size,
            reduce=reduce,
        )
        factors = {name: self.kronecker.averages[name] for name in self.kronecker.layers}
        bases = {
            name: (torch.linalg.eigh(inputs).eigenvectors, torch.linalg.eigh(outputs).eigenvectors)
            for name, (inputs, outputs) in factors.items()
        }
        scales = _scales(self.kronecker, bases, observations, reduce)
        corrected = {
            name: RotatedDiagonal(*bases[name], scales[name], split_bias=layer.split_bias)
            for name, layer in self.kronecker.layers.items()
        }
        super().__init__(list((self.kronecker.blocks() | corrected).values()))


def _scales(
    kronecker: KroneckerFisher, bases: dict[str, tuple[Tensor, Tensor]], observations: Any, reduce: Reduce
) -> dict[str, Tensor]:
    """Return {layer's name: S, (O, D')} in the bases (U_A, U_G)."""
    sums = {name: inputs.new_zeros(len(outputs), len(inputs)) for name, (inputs, outputs) in bases.items()}
    states, grouped = 0, dict[str, Tensor]()
    for through in kronecker.passes(observations):
        states += through.states
        for name, ok in through.rows_belong_to_states(kronecker.layers).items():
            grouped[name] = ok & grouped.get(name, ok)
        for gradients in through.gradients:
            for name, gradient in gradients.items():
                input_basis, output_basis = bases[name]
                sums[name] += _sum_of_squares(gradient @ output_basis, through.inputs[name] @ input_basis)
    scales = {name: reduce(total / states, states) for name, total in sums.items()}
    finite = finite_by_module({name: (scale,) for name, scale in scales.items()})
    numbers = host.read(**finite, **{f"rows of {name}": ok for name, ok in grouped.items()})
    check_finite({name: numbers[name] for name in finite})
    if mixed := [name for name in grouped if not numbers[f"rows of {name}"]]:
        raise ValueError(
            f"the layers {mixed} do not have the states along the first dimension of their input; put the "
            "states first (batch_first=True), or use KroneckerFisher or ExactFisher"
        )
    return scales


def _sum_of_squares(rows: Tensor, columns: Tensor) -> Tensor:
    """Return Σ_n (Σ_t g_t ā_tᵀ)², elementwise, (O, D'), of g (n, T, O) and ā (n, T, D')."""
    if rows.shape[1] == 1:  # the square of an outer product is the outer product of the squares
        return rows[:, 0].square().T @ columns[:, 0].square()
    total = torch.zeros_like(rows[0].T @ columns[0])
    states = max(1, NUMBERS_AT_A_TIME // total.numel())
    for some_rows, some_columns in zip(torch.split(rows, states), torch.split(columns, states), strict=True):
        total += (some_rows.mT @ some_columns).square().sum(0)
    return total
