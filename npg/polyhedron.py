"""The nearest point of a polyhedron, for problems with a few dimensions and constraints."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A polyhedron whose nearest point is farther away than this, in units of the largest violation, is empty up
# to rounding: its constraints contradict each other.
FARTHEST = 1e6


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """The points z (k,) with aᵢᵀz ≤ hᵢ for all i, in float64 on the CPU.

    Attributes:
        normals: the aᵢ, each of length 1 or 0, (m, k).
        offsets: the hᵢ, (m,).
    """

    normals: Tensor
    offsets: Tensor

    def nearest(self, point: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the nearest point to `point` (k,), and which constraints hold it there, (m,) bools.

        The problem "least ‖s‖ subject to As ≤ h − A point" is solved by non-negative least squares (Lawson &
        Hanson 1974, "Solving least squares problems", chapter 23), which is exact after finitely many steps
        and allows normals that depend on each other. None if the polyhedron is empty.
        """
        violations = self.normals @ point - self.offsets
        scale = violations.amax()
        if scale <= 0:
            return point, torch.zeros_like(violations, dtype=torch.bool)
        columns = torch.cat([-self.normals.T, (violations / scale).unsqueeze(0)])
        target = torch.zeros(len(columns), dtype=columns.dtype)
        target[-1] = 1
        weights = nonnegative_least_squares(columns, target)
        residual = columns @ weights - target
        if float(residual @ residual) * (1 + FARTHEST**2) < 1:
            return None
        active = weights > 0
        # Once the active constraints are known, the nearest point of their face has a closed form, which is
        # more exact than the residual.
        normals = self.normals[active]
        return point - torch.linalg.lstsq(normals, violations[active].unsqueeze(1)).solution.squeeze(
            1
        ), active


def nonnegative_least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    """Return the u ≥ 0 (n,) that minimises ‖matrix u − target‖ (Lawson & Hanson 1974, chapter 23).

    Args:
        matrix: (k, n), in float64.
        target: (k,).
    """
    lengths = torch.linalg.vector_norm(matrix, dim=0)
    matrix = matrix / torch.where(lengths > 0, lengths, 1)
    tolerance = 100 * torch.finfo(matrix.dtype).eps * float(torch.linalg.vector_norm(target))
    u = matrix.new_zeros(matrix.shape[1])
    positive = torch.zeros_like(u, dtype=torch.bool)
    excluded = torch.zeros_like(positive)  # that rounding made candidates
    for _ in range(10 * len(u)):  # a bound for rounding; each iteration lowers the residual
        slopes = torch.where(positive | excluded, 0, matrix.T @ (target - matrix @ u))
        entering = int(slopes.argmax())
        if slopes[entering] <= tolerance:
            break
        positive[entering] = True
        unbounded = _least_squares(matrix, target, positive)
        if unbounded[entering] <= 0:
            positive[entering], excluded[entering] = False, True
            continue
        excluded[:] = False
        while (leaving := positive & (unbounded <= 0)).any():
            ratios = u[leaving] / (u[leaving] - unbounded[leaving])
            u = u + ratios.amin() * (unbounded - u)
            positive &= ~(leaving & (u <= tolerance))
            positive[leaving.nonzero()[ratios.argmin()]] = False
            u = torch.where(positive, u, 0)
            unbounded = _least_squares(matrix, target, positive)
        u = unbounded
    return u / torch.where(lengths > 0, lengths, 1)


def _least_squares(matrix: Tensor, target: Tensor, columns: Tensor) -> Tensor:
    """Return the u that minimises ‖matrix u − target‖ and is 0 outside of some columns, (n,) bools."""
    u = matrix.new_zeros(len(columns))
    if columns.any():
        u[columns] = torch.linalg.lstsq(matrix[:, columns], target.unsqueeze(1)).solution.squeeze(1)
    return u
