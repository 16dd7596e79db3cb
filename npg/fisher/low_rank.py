"""A matrix with an inverse in closed form, plus or minus a matrix of low rank."""

import torch
from torch import Tensor
from torch.func import vmap

from npg.linear_operator import InvertibleOperator


class LowRankUpdate(InvertibleOperator):
    """The matrix B ± RᵀR, inverted by Woodbury's identity with one Cholesky factor of n rows.

    With L Lᵀ = I ± R B⁻¹ Rᵀ and W = L⁻¹ R B⁻¹ the inverse is

        (B ± RᵀR)⁻¹ = B⁻¹ ∓ WᵀW,

    of the same form. It costs n products with B⁻¹ and O(n² (n + P)) operations; a product then costs 2nP.

    The difference suffers from cancellation if RᵀR is much larger than B: its relative error is about
    ε‖R B⁻¹Rᵀ‖, ε being the dtype's rounding, e.g. 10⁻⁴ in float32 if the update is a thousand times B.

    Args:
        base: B, whose products run under `torch.func.vmap`.
        rows: R, (n, P).
        sign: 1 or −1.
    """

    def __init__(self, base: InvertibleOperator, rows: Tensor, *, sign: int = 1):
        super().__init__(base.size, base.dtype, base.device)
        self.base = base
        self.rows = rows
        self.sign = sign

    def matvec(self, vector: Tensor) -> Tensor:
        """Return B v ± Rᵀ(R v)."""
        return self.base.matvec(vector) + self.sign * (self.rows.T @ (self.rows @ vector))

    def damped(self, damping: float) -> "LowRankUpdate":
        """Return the matrix with B replaced by `B.damped(damping)`."""
        return LowRankUpdate(self.base.damped(damping), self.rows, sign=self.sign)

    def unchecked_inverse(self, damping: float = 0.0) -> tuple["LowRankUpdate", dict[str, Tensor]]:
        """Return the inverse of `damped(λ)`; the parts are those of B, and the update as one part."""
        base, usable = self.base.unchecked_inverse(damping)
        solved = vmap(base.matvec)(self.rows)  # R B⁻¹, B being symmetric
        gram = self.sign * (self.rows @ solved.T)
        gram.diagonal().add_(1)
        factor, failed = torch.linalg.cholesky_ex(gram)
        # With + every pivot is at least 1: if the rounding of the largest entry exceeds that 1, no digit of
        # the difference of inverses is right. With − a pivot is small if B and the update cancel.
        least = torch.finfo(self.dtype).eps * gram.diagonal().abs().amax()
        usable[f"an update of {len(gram)} rows"] = (failed == 0) & (factor.diagonal().square() > least).all()
        whitened = torch.linalg.solve_triangular(factor, solved, upper=False)
        return LowRankUpdate(base, whitened, sign=-self.sign), usable
