"""Trust region policy optimization: the natural step, shortened until its KL is at most δ."""

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
        step = trust_region_step(
            objective,
            self.make_fisher(batch),
            target_kl=self.scheduled("target_kl"),
            damping=self.cg_damping,
            solver=self.solver,
            shrink=self.line_search_shrinking_factor,
            max_iterations=self.line_search_max_iter,
        )
        self.adapt_damping(step)
        return step
