"""The exact Fisher matrix for modules that can be differentiated only once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from npg.fisher.exact import metric_sum
from npg.fisher.jacobian import DifferenceJacobian
from npg.fisher.state_mean import StateMean, StateSum
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity


class FiniteDifferenceFisher(StateMean):
    """The exact matrix, with J v by a forward difference and Jᵀ u by one backward pass.

    For modules that cannot be differentiated twice, e.g. a fused LSTM. Products have a relative error of
    about √eps of the dtype (1e-7 in float64, 1e-3 in float32) times the policy's curvature, and are symmetric
    and linear only up to that. Arguments and errors are those of `ExactFisher`.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        parameters = FlatParameters(actor)
        theta = parameters.copies()

        @torch.enable_grad()
        def linearise(observations: Any) -> StateSum:
            distribution = evaluate(actor, observations, theta)

            def displaced(steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
                moved = torch._foreach_add(list(theta.values()), list(steps))
                return evaluate(actor, observations, dict(zip(theta, moved, strict=True))).coordinates

            jacobian = DifferenceJacobian(distribution.coordinates, theta.values(), displaced)
            return metric_sum(jacobian, distribution, parameters)

        super().__init__(parameters, linearise, (observations,), micro_batch_size, reduce)
