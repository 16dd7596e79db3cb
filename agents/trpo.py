"""Trust region policy optimization: the natural step, shortened until its KL is at most δ."""

from typing import Any

from agents.natural_gradient import NaturalGradientAgent
from agents.rollout.batch import Batch
from npg import PolicyStep, SurrogateObjective, trust_region_step


class TRPO(NaturalGradientAgent):
    """Trust region policy optimization (Schulman et al. 2015).

    Args:
        line_search_shrinking_factor: ratio of the lengths of two successive candidates.
        line_search_max_iter: maximum number of candidates tried.
    """

    line_search_shrinking_factor: float = 0.8
    line_search_max_iter: int = 10

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return a step with KL ≤ δ and a gain > 0, or a rejected step."""
        options: dict[str, Any] = {
            "target_kl": self.scheduled("target_kl"),
            "damping": self.cg_damping,
            "shrink": self.line_search_shrinking_factor,
            "max_iterations": self.line_search_max_iter,
        }
        captured = self.captured_step()
        if captured is not None:
            step = captured.trust_region_step(objective, **options)
        else:
            step = trust_region_step(objective, self.make_fisher(batch), solver=self.solver, **options)
        self.adapt_damping(step)
        return step
