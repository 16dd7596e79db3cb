"""Natural policy gradient: a step along F⁻¹g, with the length at which its predicted KL is δ."""

from agents.natural_gradient import NaturalGradientAgent
from agents.rollout.batch import Batch
from npg import PolicyStep, SurrogateObjective, natural_step


class NPG(NaturalGradientAgent):
    """Natural policy gradient (Kakade 2001), with the step length from the trust region.

    Args:
        step_size: step by this fixed multiple of F⁻¹g instead, whatever `target_kl`.
    """

    step_size: float | None = None

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the natural gradient step."""
        step = natural_step(
            objective,
            self.make_fisher(batch),
            target_kl=self.scheduled("target_kl"),
            step_size=self.step_size,
            damping=self.cg_damping,
            solver=self.solver,
        )
        self.adapt_damping(step)
        return step
