"""Fisher blocks of one layer. They act on its part of the flat vector: weight (O, D), then bias (O,).

Let V (O, D') be this part as a matrix, whose last column is the bias if the layer has both. The product of
A ⊗ G with V is G V A. A (D', D') belongs to the layer's inputs, G (O, O) to the gradients at its outputs.
"""

import math

import torch
from torch import Tensor

from npg import host
from npg.fisher.blocks import inverse_of, shifted
from npg.linear_operator import InvertibleOperator, check_damping


class Kronecker(InvertibleOperator):
    """The block A ⊗ G.

    Args:
        inputs: A, (D', D').
        outputs: G, (O, O).
        split_bias: whether the last column of A belongs to a bias, which follows the weight in the vector.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, *, split_bias: bool):
        super().__init__(len(inputs) * len(outputs), inputs.dtype, inputs.device)
        self.inputs = inputs
        self.outputs = outputs
        self.split_bias = split_bias

    def matvec(self, vector: Tensor) -> Tensor:
        """Return G V A, flat."""
        matrix = as_matrix(vector, len(self.outputs), self.split_bias)
        return as_vector(self.outputs @ matrix @ self.inputs, self.split_bias)

    def damped(self, damping: float) -> "Kronecker":
        """Return (A + π√λ I) ⊗ (G + √λ/π I), factored Tikhonov damping.

        It is A ⊗ G + λI up to cross terms that π balances, π² = (tr A / dim A) / (tr G / dim G) (Martens &
        Grosse 2015, section 6.3).

        Raises:
            ValueError: the damping is negative or not finite.
        """
        on_inputs, on_outputs = self._shares(damping)
        return Kronecker(
            shifted(self.inputs, on_inputs), shifted(self.outputs, on_outputs), split_bias=self.split_bias
        )

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["Kronecker", dict[str, Tensor]]:
        """Return the inverse of `damped(λ)`: the Kronecker product of its factors' inverses."""
        on_inputs, on_outputs = self._shares(damping)
        inputs, inputs_usable = inverse_of(self.inputs, on_inputs)
        outputs, outputs_usable = inverse_of(self.outputs, on_outputs)
        name = f"a Kronecker factor of {len(inputs)} inputs or {len(outputs)} outputs"
        inverse = Kronecker(inputs, outputs, split_bias=self.split_bias)
        return inverse, {name: inputs_usable & outputs_usable}

    def _shares(self, damping: float) -> tuple[Tensor, Tensor]:
        """Return the multiples of I that are added to A and to G: π√λ and √λ/π, 0-d."""
        check_damping(damping)
        balance = balance_of(self.inputs, self.outputs)
        return balance * math.sqrt(damping), math.sqrt(damping) / balance


class RotatedDiagonal(InvertibleOperator):
    """The block U diag(S) Uᵀ in the basis U = U_A ⊗ U_G.

    Args:
        input_basis: U_A, (D', D'), with orthonormal columns.
        output_basis: U_G, (O, O), with orthonormal columns.
        scales: S, (O, D').
        split_bias: see `Kronecker`.
    """

    def __init__(self, input_basis: Tensor, output_basis: Tensor, scales: Tensor, *, split_bias: bool):
        super().__init__(scales.numel(), scales.dtype, scales.device)
        self.input_basis = input_basis
        self.output_basis = output_basis
        self.scales = scales
        self.split_bias = split_bias

    def matvec(self, vector: Tensor) -> Tensor:
        """Return U (S ⊙ (Uᵀ v)), flat."""
        matrix = as_matrix(vector, len(self.output_basis), self.split_bias)
        rotated = self.output_basis.T @ matrix @ self.input_basis
        back = self.output_basis @ (self.scales * rotated) @ self.input_basis.T
        return as_vector(back, self.split_bias)

    def damped(self, damping: float) -> "RotatedDiagonal":
        """Return U diag(S + λ) Uᵀ, which is the matrix plus λI since U is orthogonal."""
        check_damping(damping)
        return RotatedDiagonal(
            self.input_basis, self.output_basis, self.scales + damping, split_bias=self.split_bias
        )

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["RotatedDiagonal", dict[str, Tensor]]:
        """Return the inverse of `damped(λ)`."""
        damped = self.damped(damping).scales
        usable = (damped > torch.finfo(self.dtype).eps * damped.abs().amax()).all()
        inverse = RotatedDiagonal(self.input_basis, self.output_basis, 1 / damped, split_bias=self.split_bias)
        return inverse, {"a rotated diagonal": usable}


def balance_of(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return π (0-d), the square root of the ratio of the factors' mean eigenvalues; 1 if 0 or not finite."""
    dtype = host.scalar_dtype(inputs.device)
    ratio = inputs.diagonal().mean().to(dtype) / outputs.diagonal().mean().to(dtype)
    return torch.where((ratio > 0) & ratio.isfinite(), ratio, 1).sqrt()


def as_matrix(vector: Tensor, rows: int, split_bias: bool) -> Tensor:
    """Return a layer's part of the flat vector as V (O, D')."""
    if not split_bias:
        return vector.view(rows, -1)
    return torch.cat([vector[:-rows].view(rows, -1), vector[-rows:].unsqueeze(1)], 1)


def as_vector(matrix: Tensor, split_bias: bool) -> Tensor:
    """Return V (O, D') as a layer's part of the flat vector."""
    if not split_bias:
        return matrix.reshape(-1)
    return torch.cat([matrix[:, :-1].reshape(-1), matrix[:, -1]])
