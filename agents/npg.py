"""Natural policy gradient: a step along F⁻¹g, with the length at which its predicted KL is δ."""

from typing import Any

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
        options: dict[str, Any] = {
            "target_kl": self.scheduled("target_kl"),
            "step_size": self.step_size,
            "damping": self.cg_damping,
        }
        captured = self.captured_step()
        if captured is not None:
            step = captured.natural_step(objective, **options)
        else:
            step = natural_step(objective, self.make_fisher(batch), solver=self.solver, **options)
        self.adapt_damping(step)
        return step
