"""Natural policy gradient: a step along F⁻¹g, as long as its predicted KL allows."""

from agents.natural_gradient import NaturalGradientAgent
from agents.rollout.batch import Batch
from npg import PolicyStep, SurrogateObjective, natural_step


class NPG(NaturalGradientAgent):
    """Natural policy gradient (Kakade 2001), with the step length from the trust region.

    Args:
        step_size: a fixed multiple of F⁻¹g in place of the length that `target_kl` gives.
    """

    step_size: float | None = None

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the natural gradient step."""
        step = natural_step(
            objective,
            self.make_fisher(batch),
            target_kl=self.scheduled(self.target_kl),
            step_size=self.step_size,
            damping=self.cg_damping,
            solver=self.solver,
        )
        self.adapt_damping(step)
        return step
