"""The exact Fisher matrix for modules that can be differentiated only once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from npg.fisher.exact import metric_sum
from npg.fisher.jacobian import DifferenceJacobian
from npg.fisher.state_mean import StateMean, StateSum
from npg.policy import evaluate


class FiniteDifferenceFisher(StateMean):
    """The exact matrix, with J v computed by a forward difference and Jᵀ u by one backward pass.

    For modules that cannot be differentiated twice, e.g. a fused LSTM. Products have a relative error of
    about √eps of the dtype (1e-7 in float64, 1e-3 in float32) times the policy's curvature, and are symmetric
    and linear only up to that. Arguments and errors are those of `ExactFisher`.
    """

    copies_parameters = True

    def linearise(self, observations: Any) -> StateSum:
        """Return v ↦ Σ_s J_sᵀ M_s J_s v."""
        policy, theta = self.policy(observations), self._theta
        assert theta is not None

        def displaced(steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
            moved = torch._foreach_add(list(theta.values()), list(steps))
            return evaluate(self._actor, observations, dict(zip(theta, moved, strict=True))).coordinates

        jacobian = DifferenceJacobian(policy.coordinates, self.tensors, displaced)
        return metric_sum(jacobian, policy, self.parameters)
