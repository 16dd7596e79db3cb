"""Hessians of means over states, by differentiating twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from npg.distributions import Distribution
from npg.fisher.jacobian import check_twice_differentiable
from npg.fisher.state_mean import StateMean, StateSum
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity


class _MeanHessian(StateMean):
    """The mean Hessian of a function of the policy and of further data, (N,)."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        actor: nn.Module,
        data: tuple[Any, ...],
        micro_batch_size: int | None,
        reduce: Reduce,
    ):
        parameters = FlatParameters(actor)
        theta = None if micro_batch_size is None else parameters.copies()
        tensors = parameters.tensors if theta is None else tuple(theta.values())

        @torch.enable_grad()
        def linearise(observations: Any, *others: Tensor) -> StateSum:
            policy: Distribution = evaluate(actor, observations, theta)
            values = function(policy, *others)
            gradient = torch.autograd.grad(values.sum(), tensors, create_graph=True, materialize_grads=True)
            check_twice_differentiable(gradient)

            def product(vector: Tensor) -> Tensor:
                parts = parameters.unflatten(vector)
                return parameters.flatten(
                    torch.autograd.grad(gradient, tensors, parts, retain_graph=True, allow_unused=True)
                )

            return StateSum(product, values.numel())

        super().__init__(parameters, linearise, data, micro_batch_size, reduce)


class KLHessian(_MeanHessian):
    """The Hessian at θ' = θ of the mean KL(π_θ ‖ π_θ'): the Fisher matrix, a second way.

    Arguments and errors are those of `ExactFisher`, which is faster; use this one as a check, or for a
    distribution whose `fisher_product` is not implemented. Schulman et al. 2015, "Trust region policy
    optimization", appendix C.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        super().__init__(
            lambda policy: policy.snapshot().kl(policy), actor, (observations,), micro_batch_size, reduce
        )


class LikelihoodHessian(_MeanHessian):
    """The Hessian of −1/N Σ log π(a | s) at given actions.

    Over actions drawn from the policy its expectation is the Fisher matrix (the second definition,
    −E[∇² log π]); on any finite data it differs, and need not be positive semi-definite.

    Arguments not listed, and errors, are those of `ExactFisher`.

    Args:
        actions: one per state, shaped as the distribution's `log_prob` takes them.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        actions: Tensor,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        super().__init__(
            lambda policy, actions: -policy.log_prob(actions),
            actor,
            (observations, actions),
            micro_batch_size,
            reduce,
        )
