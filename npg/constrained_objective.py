"""A surrogate objective with constraints on the expectations of other advantages."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from npg.objective import SurrogateObjective


class ConstrainedObjective(SurrogateObjective):
    """The objective L(d), and m constrained quantities that change by E[(ratio(d) − ratio(0)) · advantageᵢ].

    Args:
        actor: as for `SurrogateObjective`.
        observations: as there.
        actions: as there.
        advantages: as there.
        constraint_advantages: one column per constraint, (N, m), in the constraint's unit.
        options: keyword arguments of `SurrogateObjective`.

    Raises:
        ValueError: the shapes do not match.
    """

    _retains_graph: ClassVar[bool] = True

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        actions: Tensor,
        advantages: Tensor,
        constraint_advantages: Tensor,
        **options: Any,
    ):
        super().__init__(actor, observations, actions, advantages, **options)
        if constraint_advantages.ndim != 2 or len(constraint_advantages) != self._states:
            raise ValueError(
                f"expected constraint_advantages of shape ({self._states}, m), one row per state and one "
                f"column per constraint; got {tuple(constraint_advantages.shape)}"
            )
        self._constraint_advantages = constraint_advantages
        self._constraint_gradients: Tensor | None = None

    @property
    def constraints(self) -> int:
        """m, the number of constraints."""
        return self._constraint_advantages.shape[1]

    def constraint_gradients(self) -> Tensor:
        """Return the gradients bᵢ of the constrained quantities, (m, P)."""
        if self._constraint_gradients is None:
            with torch.enable_grad():
                ratio = torch.exp(self._log_prob - self._old_log_prob)
                means = (ratio.unsqueeze(1) * self._constraint_advantages).mean(0)
            self._constraint_gradients = torch.stack([self._gradient_of(mean) for mean in means])
        return self._constraint_gradients

    def _constraint_changes(self, ratio: Tensor) -> list[Tensor]:
        changes = (ratio - self._old_ratio).unsqueeze(1) * self._constraint_advantages
        return list(changes.mean(0))
