"""Hessians of means over states, by differentiating twice."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from npg.distributions import Distribution
from npg.fisher.jacobian import DifferenceJacobian, check_twice_differentiable
from npg.fisher.linearisation import linearise
from npg.fisher.state_mean import StateMean, StateSum
from npg.policy import evaluate
from npg.reduction import Reduce, identity


class _MeanHessian(StateMean):
    """The mean over states of the Hessians of a function of the policy and further data."""

    @staticmethod
    @abstractmethod
    def function(policy: Distribution, *further: Tensor) -> Callable[[Distribution], Tensor]:
        """Return the function, with one value per state, (N,); its Hessian is taken at the policy."""

    def linearise(self, observations: Any, *further: Any) -> StateSum:
        """Return v ↦ Σ_s ∇²f_s v."""
        parameters, tensors = self.parameters, self.tensors

        def exact(policy: Distribution) -> StateSum:
            values = self.function(policy, *further)(policy)
            gradient = torch.autograd.grad(values.sum(), tensors, create_graph=True, allow_unused=True)
            check_twice_differentiable([values], gradient)

            def product(vector: Tensor) -> Tensor:
                pairs = zip(gradient, parameters.unflatten(vector), strict=True)
                moving = [(g, v) for g, v in pairs if g is not None and g.requires_grad]
                if not moving:
                    return torch.zeros_like(vector)
                moved, parts = zip(*moving, strict=True)
                return parameters.flatten(
                    torch.autograd.grad(moved, tensors, parts, retain_graph=True, allow_unused=True)
                )

            return StateSum(product, values.numel())

        def by_differences(policy: Distribution) -> StateSum:
            function = self.function(policy, *further)
            base = self.parameters.copies() if self._theta is None else self._theta

            def gradient_at(theta: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
                with torch.enable_grad():
                    values = function(evaluate(self._actor, observations, theta))
                    parts = torch.autograd.grad(values.sum(), tuple(theta.values()), allow_unused=True)
                return parameters.unflatten(parameters.flatten(parts))  # dense

            def displaced(steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
                moved = torch._foreach_add([p.detach() for p in base.values()], list(steps))
                return gradient_at({name: p.requires_grad_() for name, p in zip(base, moved, strict=True)})

            jacobian = DifferenceJacobian(gradient_at(base), base.values(), displaced)

            def product(vector: Tensor) -> Tensor:
                return parameters.flatten(jacobian.push_forward(parameters.unflatten(vector)))

            return StateSum(product, policy.coordinates[0].shape[:-1].numel())

        def multiply(made: StateSum) -> None:
            made.product(torch.ones(self.size, dtype=self.dtype, device=self.device))

        kind, evaluated = type(self).__name__, partial(self.policy, observations)
        return linearise(self._actor, kind, evaluated, exact, by_differences, multiply)


class KLHessian(_MeanHessian):
    """The Hessian at θ' = θ of the mean KL(π_θ ‖ π_θ'), which is another way to compute the Fisher matrix.

    Arguments and errors are those of `ExactFisher`, which is faster; use this one as a check, or for a
    distribution whose `fisher_product` is not implemented. Schulman et al. 2015, "Trust region policy
    optimization", appendix C.
    """

    @staticmethod
    def function(policy: Distribution, *_: Tensor) -> Callable[[Distribution], Tensor]:
        """Return π_θ' ↦ KL(π_θ ‖ π_θ')."""
        return policy.snapshot().kl


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
    def function(policy: Distribution, *further: Tensor) -> Callable[[Distribution], Tensor]:
        """Return π ↦ −log π(a | s)."""
        return lambda policy: -policy.log_prob(*further)
