"""The Fisher information matrix of a policy as a linear operator.

For a policy π_θ(a | s) and N states,

    F = 1/N Σ_s E_a[∇log π ∇log πᵀ] = 1/N Σ_s ∇²_θ' KL(π_θ ‖ π_θ')   at θ' = θ.

`ExactFisher` multiplies by the first form, `KLHessian` by the second: two independent implementations of
one matrix, each the other's check. Both read the policy once, at construction, and stand for the
parameters that it had then. Kakade 2001, "A natural policy gradient"; Schulman et al. 2015, "Trust
region policy optimization", appendix C.
"""

from typing import Any

import torch
from torch import Tensor, nn

from npg.distributions import Coordinates, Distribution
from npg.linear_operator import LinearOperator
from npg.parameters import FlatParameters
from npg.reduction import Reduce, identity


class ExactFisher(LinearOperator):
    """The matrix Jᵀ F_dist J / N: positive semi-definite by construction.

    J is the Jacobian of the distribution's coordinates (means, logits) in the parameters, F_dist the
    metric that the distribution knows in closed form. A product costs two passes backward through the
    network; the action is integrated out exactly, so no sampling noise enters.

    Args:
        actor: a module whose forward maps observations to an npg distribution. Put it in evaluation
            mode: dropout would make the two passes see two networks.
        observations: what `actor` takes, N states.
        reduce: maps a local mean to the mean over all processes.

    Raises:
        ValueError: there is no state, or no trainable parameter reaches the distribution.
        TypeError: the actor does not return an npg distribution.
    """

    def __init__(self, actor: nn.Module, observations: Any, *, reduce: Reduce = identity):
        self._parameters = FlatParameters(actor)
        self._reduce = reduce
        self.size = self._parameters.size
        self.dtype, self.device = self._parameters.dtype, self._parameters.device
        with torch.enable_grad():
            distribution = evaluate(actor, observations)
            # Coordinates that no parameter reaches (a constant scale) have a zero Jacobian.
            self._moves = [z.requires_grad for z in distribution.coordinates]
            self._outputs = [z for z in distribution.coordinates if z.requires_grad]
            self._metric = distribution.snapshot()
            self._states = distribution.coordinates[0].shape[:-1].numel()
            # u ↦ Jᵀu is linear, so that *its* transposed product is v ↦ Jv: with the graph of Jᵀu
            # kept, every later product is two cheap backward passes and no forward one.
            self._cotangents = [torch.zeros_like(z, requires_grad=True) for z in self._outputs]
            self._pullback = torch.autograd.grad(
                self._outputs,
                self._parameters.tensors,
                self._cotangents,
                create_graph=True,
                materialize_grads=True,
            )

    def matvec(self, vector: Tensor) -> Tensor:
        """Return F v: push v forward to the coordinates, weigh it there, pull it back."""
        weighed = self._metric.fisher_product(self._push_forward(vector))
        moved = [w for w, moves in zip(weighed, self._moves, strict=True) if moves]
        product = torch.autograd.grad(
            self._outputs, self._parameters.tensors, moved, retain_graph=True, allow_unused=True
        )
        return self._reduce(self._parameters.flatten(product) / self._states)

    def _push_forward(self, vector: Tensor) -> Coordinates:
        """Return J v, shaped as the distribution's coordinates."""
        tangents = iter(
            torch.autograd.grad(
                self._pullback,
                self._cotangents,
                self._parameters.unflatten(vector),
                retain_graph=True,
                materialize_grads=True,
            )
        )
        pairs = zip(self._metric.coordinates, self._moves, strict=True)
        return tuple(next(tangents) if moves else torch.zeros_like(z) for z, moves in pairs)


class KLHessian(LinearOperator):
    """The Hessian at θ' = θ of the mean KL(π_θ ‖ π_θ'), by differentiating twice.

    Arguments and errors are those of `ExactFisher`, which is faster; this one serves as its check, and
    for distributions that know their KL but not their metric.
    """

    def __init__(self, actor: nn.Module, observations: Any, *, reduce: Reduce = identity):
        self._parameters = FlatParameters(actor)
        self._reduce = reduce
        self.size = self._parameters.size
        self.dtype, self.device = self._parameters.dtype, self._parameters.device
        with torch.enable_grad():
            distribution = evaluate(actor, observations)
            kl = distribution.snapshot().kl(distribution).mean()
            self._gradient = torch.autograd.grad(
                kl, self._parameters.tensors, create_graph=True, materialize_grads=True
            )

    def matvec(self, vector: Tensor) -> Tensor:
        """Return ∇(vᵀ∇KL)."""
        product = torch.autograd.grad(
            self._gradient,
            self._parameters.tensors,
            self._parameters.unflatten(vector),
            retain_graph=True,
            allow_unused=True,
        )
        return self._reduce(self._parameters.flatten(product))


def evaluate(actor: nn.Module, observations: Any) -> Distribution:
    """Return the actor's distribution at the observations.

    Raises:
        TypeError: the actor returned something else than an npg distribution.
        ValueError: there is no state, or nothing to differentiate where gradients are on.
    """
    distribution = actor(observations)
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"the actor must return an npg distribution such as npg.DiagGaussian, "
            f"got {type(distribution).__name__}"
        )
    if distribution.coordinates[0].shape[:-1].numel() == 0:
        raise ValueError("expected at least one state, got an empty batch of observations")
    if torch.is_grad_enabled() and not any(z.requires_grad for z in distribution.coordinates):
        raise ValueError("no trainable parameter of the actor reaches its distribution")
    return distribution
