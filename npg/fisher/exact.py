"""The exact Fisher matrix, from the metric of the policy's distribution."""

from operator import attrgetter
from typing import Any

from torch import Tensor

from npg.distributions import Distribution
from npg.fisher.linearisation import AnyJacobian
from npg.fisher.state_mean import StateMean, StateSum
from npg.parameters import FlatParameters


class ExactFisher(StateMean):
    """The matrix Jᵀ M J / N, positive semi-definite by construction and without sampling noise.

    If torch cannot differentiate the actor twice, products are those of `FiniteDifferenceFisher`, with a
    warning. Arguments and errors are those of `npg.fisher.state_mean.StateMean`.
    """

    def linearise(self, observations: Any) -> StateSum:
        """Return v ↦ Σ_s J_sᵀ M_s J_s v."""
        policy, jacobian = self.jacobian(observations, attrgetter("coordinates"))
        return metric_sum(jacobian, policy, self.parameters)


def metric_sum(jacobian: AnyJacobian, distribution: Distribution, parameters: FlatParameters) -> StateSum:
    """Return v ↦ Σ_s J_sᵀ M_s J_s v."""
    metric = distribution.snapshot()

    def product(vector: Tensor) -> Tensor:
        pushed = jacobian.push_forward(parameters.unflatten(vector))
        return parameters.flatten(jacobian.pull_back(metric.fisher_product(pushed)))

    return StateSum(product, distribution.coordinates[0].shape[:-1].numel())
