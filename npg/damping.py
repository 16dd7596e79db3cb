"""Adapt the damping to how well the gain of the last step was predicted."""

import math
from dataclasses import dataclass

from npg.policy_step import PolicyStep


@dataclass(frozen=True)
class LevenbergMarquardt:
    """A rule that computes the next λ from the last step's gain ratio ρ = gain / predicted gain.

    λ is divided by `factor` if ρ > `high`, and multiplied by it if ρ < `low` or the step was rejected. The
    idea is from Levenberg 1944 and Marquardt 1963; λ on top of a Fisher matrix from Martens 2010, section
    4.1, and Martens & Grosse 2015, section 6.5; the thresholds from Nocedal & Wright 2006, algorithm 4.1.
    Two things differ here:

    * The predicted gain is gᵀd, without the −½dᵀFd of a least-squares problem: F is the curvature of the
      KL, not of the surrogate, and limits the step instead of contributing to the gain. So ρ is 1 if the
      prediction is exact, and the thresholds ¼ and ¾ keep their meaning. (If F were the surrogate's
      curvature too, an undamped natural step would have ρ = ½, and λ would not change.)
    * A step that the line search had to shorten never lowers λ, just as algorithm 4.1 enlarges its region
      only after a full step. For any smooth surrogate ρ → 1 as the step shrinks, so the ρ of a shortened
      step says little about the direction, which failed at full length.

    λ affects only the direction of a step; its length follows from the KL. Raising λ therefore corrects steps
    that are too long in nearly flat directions, not a KL limit that is too large. ρ is measured on the batch
    that the step was computed from, so it reflects curvature but not sampling noise; `minimum` guards against
    the latter.

    Args:
        factor: what λ is multiplied or divided by, above 1; Martens 2010 uses 3/2.
        low: ρ below which λ is raised.
        high: ρ above which λ is lowered, at least `low`.
        minimum: the smallest λ, above 0; reached if the gain is always predicted well.
        maximum: the largest λ, at least `minimum`.

    Raises:
        ValueError: an argument is out of range.
    """

    factor: float = 1.5
    low: float = 0.25
    high: float = 0.75
    minimum: float = 1e-3
    maximum: float = 10.0

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be a finite number above 1, got {self.factor}")
        if not self.low <= self.high:
            raise ValueError(f"expected low ≤ high, got {self.low} and {self.high}")
        if not 0 < self.minimum <= self.maximum < math.inf:
            raise ValueError(f"expected 0 < minimum ≤ maximum < inf, got {self.minimum} and {self.maximum}")

    def adapted(self, damping: float, step: PolicyStep) -> float:
        """Return the λ of the next step, in [minimum, maximum].

        It is computed from the λ that the step *used*, which a second attempt may have raised above
        `damping`.

        Args:
            damping: the λ given to the step, at least 0. It is kept, within the bounds, if the step solved no
                linear system (zero or non-finite gradient).
            step: the step, accepted or rejected.

        Raises:
            ValueError: the damping is negative or not finite.
        """
        if not 0 <= damping < math.inf:
            raise ValueError(f"damping must be a finite number ≥ 0, got {damping}")
        if step.solution is None:
            return self._bounded(damping)
        # A predicted gain ≤ 0 cannot be confirmed, and comparisons with NaN are false: both raise λ.
        ratio = step.gain / step.predicted_gain if step.predicted_gain > 0 else -math.inf
        if not (step.accepted and ratio >= self.low):
            return self._bounded(step.damping * self.factor)
        if ratio > self.high and step.backtracks == 0:
            return self._bounded(step.damping / self.factor)
        return self._bounded(step.damping)

    def _bounded(self, damping: float) -> float:
        return min(max(damping, self.minimum), self.maximum)
