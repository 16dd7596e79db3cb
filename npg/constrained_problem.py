"""The problem of a constrained step in a few coordinates, and its solution.

    maximise gᵀd   subject to   cᵢ + bᵢᵀd ≤ 0 for all i,   ½ dᵀFd ≤ δ,   d in the span of a few vectors

docs/constraints.md derives it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from npg import host
from npg.linear_operator import LinearOperator
from npg.polyhedron import Polyhedron

ITERATIONS = 200  # of a search that bisects at worst; a few are enough
ROUNDING = 1e-12
LONGEST = 1e7  # multiple of x after which the constraints alone determine the solution
VERTEX = 1e-20  # a squared length, relative to that of x, that is 0 up to rounding


class Case(IntEnum):
    """What determined a constrained step."""

    RECOVERY = 0
    """No step within the trust region satisfies all constraints: lower the violations, whatever the gain."""
    RETURN = 1
    """A constraint is violated; the step is predicted to satisfy it."""
    LIMITED = 2
    """All constraints are satisfied, and one of them limits the step."""
    FREE = 3
    """The step without constraints is predicted to satisfy all of them."""


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Vectors scaled to a largest entry of 1, so that no dot product overflows or underflows.

    Attributes:
        rows: (m, P).
        scales: the largest absolute entries, or 1 for a zero vector.
    """

    rows: Tensor
    scales: list[float]

    @classmethod
    def of(cls, vectors: Tensor) -> "ScaledRows":
        """Scale the rows of a matrix (m, P)."""
        largest = vectors.abs().amax(1) if len(vectors) else vectors.new_zeros(0)
        divisors = torch.where(largest > 0, largest, 1)
        (scales,) = host.fetch(divisors.to(host.scalar_dtype(vectors.device)))
        return cls(vectors / divisors.unsqueeze(1), scales.tolist())


@dataclass(frozen=True, eq=False)
class ConstrainedProblem:
    """The problem in coordinates z (k,), k ≤ m + 1, with ‖z‖² = dᵀ(F + λI)d / 2δ.

    Attributes:
        basis: the displacement is Σ (basis z)ⱼ · solutionⱼ, (m + 1, k).
        natural: the coordinates of x, up to a positive factor, (k,).
        polyhedron: the constraints.
        curvature: Φ, (k, k): the quadratic model of the KL is δ zᵀΦz. Φ = I without damping.
        violated: whether a constraint is violated at z = 0.
    """

    basis: Tensor
    natural: Tensor
    polyhedron: Polyhedron
    curvature: Tensor
    violated: bool

    @classmethod
    def of(
        cls,
        fisher: LinearOperator,
        damping: float,
        solutions: Tensor,
        b: ScaledRows,
        excesses: Sequence[float],
        target_kl: float,
    ) -> "ConstrainedProblem | None":
        """Read the products of all vectors from the device; None if one is not finite.

        Args:
            fisher: F.
            damping: λ.
            solutions: x and the pᵢ, (m + 1, P).
            b: the scaled bᵢ.
            excesses: the cᵢ.
            target_kl: δ.
        """
        dtype = host.scalar_dtype(solutions.device)
        units = solutions.abs().amax(1)
        units = torch.where(units > 0, units, 1)
        scaled = solutions / units.unsqueeze(1)
        products = torch.stack([fisher @ row for row in scaled])
        wide = scaled.to(dtype)
        parts = host.fetch(
            products.to(dtype) @ wide.T, wide @ wide.T, b.rows.to(dtype) @ wide.T, units.to(dtype)
        )
        curvature, squares, forms, units = (part.double() for part in parts)
        if not all(bool(part.isfinite().all()) for part in (curvature, squares, forms)):
            return None
        curvature = (curvature + curvature.T) / 2
        metric = curvature + damping * squares
        # Unit length for every vector, then an orthonormal basis of their span, without what rounding adds.
        diagonal = metric.diagonal()
        lengths = torch.where(diagonal > 0, diagonal, 1).sqrt()
        inverse = torch.where(diagonal > 0, 1 / lengths, 0)
        eigenvalues, eigenvectors = torch.linalg.eigh(metric * inverse * inverse.unsqueeze(1))
        kept = eigenvalues > 100 * len(metric) * torch.finfo(solutions.dtype).eps
        root = eigenvalues[kept].sqrt()
        radius = math.sqrt(2 * target_kl)
        orthonormal = inverse.unsqueeze(1) * eigenvectors[:, kept] / root  # of the scaled solutions
        normals = torch.tensor(b.scales, dtype=torch.float64).unsqueeze(1) * (forms @ orthonormal) * radius
        sizes = torch.linalg.vector_norm(normals, dim=1)
        excess = torch.tensor(list(excesses), dtype=torch.float64)
        moved = sizes > 0  # no step changes the others, to first order
        polyhedron = Polyhedron(normals[moved] / sizes[moved].unsqueeze(1), -excess[moved] / sizes[moved])
        return cls(
            basis=radius * orthonormal / units.unsqueeze(1),
            natural=root * eigenvectors[0, kept],
            polyhedron=polyhedron,
            curvature=orthonormal.T @ curvature @ orthonormal,
            violated=bool((excess > 0).any()),
        )

    def kl(self, z: Tensor) -> float:
        """Return the predicted KL in units of δ."""
        return float(z @ self.curvature @ z)

    def shortened(self, z: Tensor) -> Tensor:
        """Return z, shortened to a predicted KL of δ if it is larger."""
        kl = self.kl(z)
        return z / math.sqrt(kl) if kl > 1 else z

    def feasible_case(self) -> Case:
        """Return the case of a step that is predicted to satisfy all constraints."""
        return Case.RETURN if self.violated else Case.LIMITED

    def recovery(self) -> tuple[Tensor, Case]:
        """Return the step towards the nearest point that satisfies all constraints.

        A fraction of the way lowers every violated constraint's excess by that fraction, and violates no
        other. If the constraints contradict each other, lower the largest violation instead.
        """
        found = self.polyhedron.nearest(torch.zeros_like(self.natural))
        if found is not None:
            return self.shortened(found[0]), Case.RECOVERY
        z = -self.polyhedron.normals[self.polyhedron.offsets.argmin()]
        return z / math.sqrt(self.kl(z)), Case.RECOVERY

    def projected(self) -> tuple[Tensor, Case]:
        """Return the natural step, projected onto the constraints."""
        kl = self.kl(self.natural)
        found = self.polyhedron.nearest(self.natural / math.sqrt(kl) if kl > 0 else self.natural)
        if found is None:
            return self.recovery()
        return self.shortened(found[0]), self.feasible_case()

    def solved(self) -> tuple[Tensor, Case]:
        """Return the nearest point to t · x for the largest t at which its predicted KL is at most δ.

        This point moves along straight lines as t grows, which end where the set of active constraints
        changes. So the end of the line at the present t is the solution, if it is on that line; otherwise
        bisect.
        """
        found = self.polyhedron.nearest(torch.zeros_like(self.natural))
        if found is None or self.kl(found[0]) > 1:
            return self.recovery()
        (best, _), low, high = found, 0.0, math.inf
        kl = self.kl(self.natural)
        if kl == 0:  # the objective has no gradient
            return best, self.feasible_case()
        t = 1 / math.sqrt(kl)
        for _ in range(ITERATIONS):
            found = self.polyhedron.nearest(t * self.natural)
            if found is None or t > LONGEST:
                break
            z, active = found
            kl = self.kl(z)
            if kl <= 1 + ROUNDING:
                best, low = z, t
            else:
                high = t
            if abs(kl - 1) <= ROUNDING or (high < math.inf and high - low <= ROUNDING * high):
                break
            t = self._end_of_line(t, z, active)
            if not low < t < min(high, LONGEST):
                t = 10 * low if math.isinf(high) else (low + high) / 2
        return best, self.feasible_case()

    def _end_of_line(self, t: float, z: Tensor, active: Tensor) -> float:
        """Return the t at which the predicted KL is δ, if the active constraints stay the same until then.

        Args:
            t: the present one.
            z: the nearest point to t · x.
            active: the constraints that hold it there.
        """
        slope = self.natural
        if active.any():
            normals = self.polyhedron.normals[active]
            parts = torch.linalg.lstsq(normals, (normals @ slope).unsqueeze(1)).solution.squeeze(1)
            slope = slope - parts
        # (z + s slope)ᵀ Φ (z + s slope) = 1
        a, b, c = self.kl(slope), float(z @ self.curvature @ slope), self.kl(z) - 1
        root = b * b - a * c
        if a <= VERTEX * self.kl(self.natural) or root < 0:
            return math.inf
        return t + (math.sqrt(root) - b) / a
