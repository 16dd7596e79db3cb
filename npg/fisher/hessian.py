"""Hessians of means over states, by differentiating twice."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from npg.distributions import Distribution
from npg.fisher.jacobian import check_twice_differentiable
from npg.fisher.state_mean import StateMean, StateSum
from npg.reduction import Reduce, identity


class _MeanHessian(StateMean):
    """The mean over states of the Hessians of a function of the policy and further data."""

    @staticmethod
    @abstractmethod
    def values(policy: Distribution, *further: Tensor) -> Tensor:
        """Return the function's value per state, (N,)."""

    def linearise(self, observations: Any, *further: Any) -> StateSum:
        """Return v ↦ Σ_s ∇²f_s v."""
        values, tensors = self.values(self.policy(observations), *further), self.tensors
        gradient = torch.autograd.grad(values.sum(), tensors, create_graph=True, materialize_grads=True)
        check_twice_differentiable(gradient)

        def product(vector: Tensor) -> Tensor:
            parts = self.parameters.unflatten(vector)
            return self.parameters.flatten(
                torch.autograd.grad(gradient, tensors, parts, retain_graph=True, allow_unused=True)
            )

        return StateSum(product, values.numel())


class KLHessian(_MeanHessian):
    """The Hessian at θ' = θ of the mean KL(π_θ ‖ π_θ'), which is another way to compute the Fisher matrix.

    Arguments and errors are those of `ExactFisher`, which is faster; use this one as a check, or for a
    distribution whose `fisher_product` is not implemented. Schulman et al. 2015, "Trust region policy
    optimization", appendix C.
    """

    @staticmethod
    def values(policy: Distribution, *_: Tensor) -> Tensor:
        """Return KL(π_θ ‖ π_θ') at θ' = θ, as a function of θ'."""
        return policy.snapshot().kl(policy)


class LikelihoodHessian(_MeanHessian):
    """The Hessian of −1/N Σ log π(a | s) at given actions.

    If the actions are drawn from the policy, its expectation is the Fisher matrix (by the second definition,
    −E[∇² log π]); for finite data it differs from that, and need not be positive semi-definite.

    Other arguments, and errors, are those of `ExactFisher`.

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
        super().__init__(actor, observations, actions, micro_batch_size=micro_batch_size, reduce=reduce)

    @staticmethod
    def values(policy: Distribution, *further: Tensor) -> Tensor:
        """Return −log π."""
        return -policy.log_prob(*further)
