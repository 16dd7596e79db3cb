"""The step of ACKTR: a closed-form natural direction, a capped length, momentum."""

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
    """Displacements from gradients, with a Kronecker-factored Fisher matrix as a running average.

        x = F_λ⁻¹ g,   α = min(η, sqrt(2δ / xᵀF_λx)),   d = μ d_last + (1 − μ) α x

    with F_λ the damped matrix. Elsewhere in npg damping shapes the direction alone, and the length follows
    from the exact F; here it also compensates for what the factors miss, which along x is more than half of
    the KL (docs/fisher.md). A displacement is a mean over past α x, each inside the ellipsoid ½ dᵀF_λd ≤ δ of
    its update: by convexity so is the mean, as long as F_λ does not change. Wu et al. 2017, "Scalable
    trust-region method for deep reinforcement learning using Kronecker-factored approximation", section 3.

    Args:
        fisher: F, without statistics so far.
        damping: λ > 0.
        decay: weight of F's averages so far when new statistics enter, in [0, 1).
        momentum: μ, in [0, 1).
        factor_interval: updates from one refresh of the factors to the next.
        inverse_interval: updates from one refresh of their inverses to the next.

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
        """Refresh factors and inverses from the states of this update, if their intervals are over.

        Raises:
            FloatingPointError: a statistic is not finite; nothing was changed.
            SingularMatrixError: a factor has no inverse, not even with its damping raised tenfold.
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
            # The statistics are finite, so that only the inverse can have failed.
            self._inverse = (
                inverse if all(numbers.values()) else self.fisher.inverse(DAMPING_GROWTH * self.damping)
            )
            self._inverted, self._damping_units = self.fisher.state_dict(), self.fisher.damping_units

    def displacement(self, gradient: Tensor, *, step_size: float, target_kl: float) -> Tensor:
        """Return d (P,) for an ascent along g (P,), not yet taken.

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
        # xᵀF_λx, since F_λx = g; zero only with g
        curvature = (x @ unit).to(host.scalar_dtype(x.device))
        longest = step_size * scale
        length = torch.minimum(torch.sqrt(2 * target_kl / curvature), longest)
        length = torch.where(curvature > 0, length, longest)
        return self.momentum * self.velocity + (1 - self.momentum) * length * x

    def keep(self, displacement: Tensor) -> None:
        """Store a displacement (P,) that was taken, for the momentum of the next."""
        self.velocity = displacement

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next displacement depends on, as tensors and a count."""
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
            ValueError: it belongs to another policy.
        """
        self.fisher.load_state_dict(state[INVERTED])
        self.fisher.damping_units = state.get(DAMPING_UNITS, {})
        self._inverse, self._inverted = None, {}
        self._invert({}, due=bool(state[INVERTED]))
        self.fisher.load_state_dict(state[FACTORS])
        self.velocity = state[VELOCITY].to(self.velocity, copy=True)
        self.updates = state[UPDATES]
