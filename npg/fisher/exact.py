"""The exact Fisher matrix, from the metric of the policy's distribution."""

from typing import Any

import torch
from torch import Tensor, nn

from npg.distributions import Distribution
from npg.fisher.chain import ChainJacobian, jacobian_of
from npg.fisher.jacobian import DifferenceJacobian, Jacobian
from npg.fisher.state_mean import StateMean, StateSum
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity


class ExactFisher(StateMean):
    """The matrix Jᵀ M J / N: positive semi-definite by construction, free of sampling noise.

    Args:
        actor: a module whose forward maps observations to an npg distribution. Put it in evaluation
            mode: with dropout two passes would use two networks.
        observations: what `actor` takes, N states.
        micro_batch_size: states linearised at a time, which limits the memory; None keeps one graph of all
            N, which makes products faster.
        reduce: maps a local mean to the mean over all processes.

    Raises:
        ValueError: there is no state, no trainable parameter reaches the distribution, or micro-batches
            would be empty.
        TypeError: the actor does not return an npg distribution, or can be differentiated only once.
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
        theta = None if micro_batch_size is None else parameters.copies()
        tensors = parameters.tensors if theta is None else theta.values()

        @torch.enable_grad()
        def linearise(observations: Any) -> StateSum:
            distribution = evaluate(actor, observations, theta)
            return metric_sum(jacobian_of(distribution.coordinates, tensors), distribution, parameters)

        super().__init__(parameters, linearise, (observations,), micro_batch_size, reduce)


def metric_sum(
    jacobian: Jacobian | ChainJacobian | DifferenceJacobian,
    distribution: Distribution,
    parameters: FlatParameters,
) -> StateSum:
    """Return v ↦ Σ_s J_sᵀ M_s J_s v."""
    metric = distribution.snapshot()

    def product(vector: Tensor) -> Tensor:
        pushed = jacobian.push_forward(parameters.unflatten(vector))
        return parameters.flatten(jacobian.pull_back(metric.fisher_product(pushed)))

    return StateSum(product, distribution.coordinates[0].shape[:-1].numel())
