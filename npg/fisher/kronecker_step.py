"""The step of ACKTR: a closed-form natural direction, a limited length, and momentum."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from npg import host
from npg.fisher.kfac import KroneckerFisher, check_finite
from npg.linear_operator import InvertibleOperator, check_damping
from npg.natural_direction import DAMPING_GROWTH
from npg.scaling import power_of_two

# Keys of a saved state.
FACTORS, INVERTED, DAMPING_UNITS = "factors", "inverted", "damping_units"
VELOCITY, UPDATES = "velocity", "updates"


class KroneckerStepper:
    """Compute displacements from gradients, with a running average of a Kronecker-factored Fisher matrix.

        x = F_λ⁻¹ g,   α = min(η, sqrt(2δ / xᵀF_λx)),   d = μ d_last + (1 − μ) α x

    where F_λ is the damped matrix. Elsewhere in npg, damping affects only the direction, and the length
    follows from the exact F. Here damping also compensates for what the factors miss, which along x is more
    than half of the KL (docs/fisher.md). A displacement is a weighted mean of past steps α x, each inside the
    ellipsoid ½ dᵀF_λd ≤ δ of its update; by convexity, so is their mean while F_λ does not change. Wu et al.
    2017, "Scalable trust-region method for deep reinforcement learning using Kronecker-factored
    approximation", section 3.

    Args:
        fisher: F, without statistics so far.
        damping: λ > 0.
        decay: weight of F's averages so far when new statistics are added, in [0, 1).
        momentum: μ, in [0, 1).
        factor_interval: number of updates per refresh of the factors.
        inverse_interval: number of updates per refresh of their inverses.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        fisher: KroneckerFisher,
        *,
        damping: float,
        decay: float = 0.95,
        momentum: float = 0.9,
        factor_interval: int = 1,
        inverse_interval: int = 1,
    ):
        check_damping(damping)
        if not (0 <= decay < 1 and 0 <= momentum < 1):
            raise ValueError(f"decay and momentum must be in [0, 1), got {decay} and {momentum}")
        if min(factor_interval, inverse_interval) < 1:
            raise ValueError(f"intervals must be at least 1, got {factor_interval} and {inverse_interval}")
        self.fisher = fisher
        self.damping = damping
        self.decay = decay
        self.momentum = momentum
        self.factor_interval = factor_interval
        self.inverse_interval = inverse_interval
        self.velocity = torch.zeros(fisher.size, dtype=fisher.dtype, device=fisher.device)
        self.updates = 0
        self._inverted: dict[str, Tensor] = {}
        self._damping_units: Mapping[str, float] = {}
        self._inverse: InvertibleOperator | None = None

    def observe(self, observations: Any) -> None:
        """Refresh factors and inverses from the states of this update, if they are due.

        Raises:
            FloatingPointError: a statistic is not finite; nothing was changed.
            SingularMatrixError: a factor has no inverse, not even with ten times the damping.
        """
        averages, finite = self.fisher.averages, dict[str, Tensor]()
        if self.updates % self.factor_interval == 0:
            self.fisher.averages, finite = self.fisher.updated(observations, decay=self.decay)
        try:
            self._invert(finite, self._inverse is None or self.updates % self.inverse_interval == 0)
        except FloatingPointError:
            self.fisher.averages = averages
            raise
        self.updates += 1

    def _invert(self, finite: Mapping[str, Tensor], due: bool) -> None:
        """Check new statistics and, if due, invert them: one host read for both."""
        inverse: InvertibleOperator | None = None
        usable: dict[str, Tensor] = {}
        if due:
            inverse, usable = self.fisher.unchecked_inverse(self.damping)
        numbers = host.read(**finite, **{f"inverse of {part}": ok for part, ok in usable.items()})
        check_finite({module: numbers[module] for module in finite})
        if inverse is not None:
            # The statistics are finite, so only the inversion can have failed.
            self._inverse = (
                inverse if all(numbers.values()) else self.fisher.inverse(DAMPING_GROWTH * self.damping)
            )
            self._inverted, self._damping_units = self.fisher.state_dict(), self.fisher.damping_units

    def displacement(self, gradient: Tensor, *, step_size: float, target_kl: float) -> Tensor:
        """Return the displacement d (P,) for the gradient g (P,), without applying it.

        Args:
            gradient: g.
            step_size: η.
            target_kl: δ in nats.

        Raises:
            ValueError: `observe` was not called yet.
        """
        if self._inverse is None:
            raise ValueError("there is no Fisher matrix yet; call observe(observations) first")
        scale = power_of_two(gradient)
        unit = gradient / scale
        x = self._inverse @ unit
        # xᵀF_λx, since F_λx = g; zero only if g is
        curvature = (x @ unit).to(host.scalar_dtype(x.device))
        longest = step_size * scale
        length = torch.minimum(torch.sqrt(2 * target_kl / curvature), longest)
        length = torch.where(curvature > 0, length, longest)
        return self.momentum * self.velocity + (1 - self.momentum) * length * x

    def keep(self, displacement: Tensor) -> None:
        """Store a displacement (P,) that was applied, for the momentum of the next."""
        self.velocity = displacement

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next displacement depends on: tensors and a count."""
        return {
            FACTORS: self.fisher.state_dict(),
            INVERTED: self._inverted,
            DAMPING_UNITS: dict(self._damping_units),
            VELOCITY: self.velocity,
            UPDATES: self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restore what `state_dict` returned.

        Raises:
            FloatingPointError, ValueError: it belongs to another policy, or `state_dict` cannot have returned
                it; nothing was changed.
            SingularMatrixError: its factors have no inverse.
        """
        inverted, factors = map(self.fisher.averages_of, (state[INVERTED], state[FACTORS]))
        units, updates = state.get(DAMPING_UNITS, {}), state[UPDATES]
        modules = self.fisher.parameters.by_module()
        if not all(name in modules and type(c) is float and 0 < c < math.inf for name, c in units.items()):
            raise ValueError(f"damping units must be positive numbers of {', '.join(modules)}; got {units}")
        if type(updates) is not int or updates < 0 or (updates and not (inverted and factors)):
            raise ValueError(f"expected a count of updates, with statistics if it is not 0; got {updates!r}")
        self.fisher.averages, self.fisher.damping_units = inverted, units
        self._inverse, self._inverted = None, {}
        self._invert({}, due=bool(inverted))
        self.fisher.averages = factors
        self.velocity = state[VELOCITY].to(self.velocity, copy=True)
        self.updates = updates
