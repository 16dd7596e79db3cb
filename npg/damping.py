"""Damping that adapts to how well the last step was predicted."""

import math
from dataclasses import dataclass

from npg.policy_step import PolicyStep


@dataclass(frozen=True)
class LevenbergMarquardt:
    """The rule by which the next λ follows from the last step's gain ratio ρ = gain / predicted gain.

    ρ above `high` divides λ by `factor`; ρ below `low` and a rejected step multiply it. Levenberg 1944 and
    Marquardt 1963 for the idea, Martens 2010, section 4.1 and Martens & Grosse 2015, section 6.5 for λ on top
    of a Fisher matrix, Nocedal & Wright 2006, algorithm 4.1 for the thresholds. Two things differ here:

    * The predicted gain is gᵀd, without the −½dᵀFd of a least-squares problem: F is the curvature of the
      KL, not of the surrogate, and bounds the step instead of entering its value. So ρ is 1 if the
      prediction is exact, and ¼ and ¾ keep their meaning. (If F were the surrogate's curvature too, the
      undamped natural step would have ρ = ½, and λ would not change.)
    * A step that the line search had to shorten never lowers λ, as algorithm 4.1 widens its region only
      after a full step. Any smooth surrogate has ρ → 1 as steps shrink, so the ratio of a shortened step is
      little evidence about the direction that failed at full length.

    λ shapes the direction alone: the length of a step comes from its KL. Raising λ therefore corrects steps
    that are too long in nearly flat directions, not a KL bound that is too large. ρ is measured on the batch
    that made the step, so it reflects curvature but not sampling noise; `minimum` limits the latter.

    Args:
        factor: what λ is multiplied or divided by, above 1; 3/2 is that of Martens 2010.
        low: ρ below which λ rises.
        high: ρ above which λ falls, at least `low`.
        minimum: of λ, above 0; well-predicted steps end here.
        maximum: of λ, at least `minimum`.

    Raises:
        ValueError: an argument is out of its range.
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

        It follows from the λ that the step *used*, which a second attempt may have raised above the given
        one.

        Args:
            damping: the λ given to the step, at least 0. It stays, within the bounds, if the step solved no
                system (a zero or non-finite gradient).
            step: the step, accepted or rejected.

        Raises:
            ValueError: the damping is negative or not finite.
        """
        if not 0 <= damping < math.inf:
            raise ValueError(f"damping must be a finite number ≥ 0, got {damping}")
        if step.solution is None:
            return self._bounded(damping)
        # A prediction of no gain cannot be confirmed, and NaN is above nothing: both raise λ.
        ratio = step.gain / step.predicted_gain if step.predicted_gain > 0 else -math.inf
        if not (step.accepted and ratio >= self.low):
            return self._bounded(step.damping * self.factor)
        if ratio > self.high and step.backtracks == 0:
            return self._bounded(step.damping / self.factor)
        return self._bounded(step.damping)

    def _bounded(self, damping: float) -> float:
        return min(max(damping, self.minimum), self.maximum)
