"""Evaluate an actor at given parameters and validate what it returns."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from npg.distributions import Distribution
from npg.kernels import same_kernels


def evaluate(
    actor: nn.Module, observations: Any, parameters: Mapping[str, Tensor] | None = None
) -> Distribution:
    """Return the actor's distribution at the observations, with gradients unless inside `no_grad`.

    Args:
        actor: maps observations to an npg distribution.
        observations: input of the actor.
        parameters: {name: tensor} to use in place of the actor's own, which are not modified.

    Raises:
        TypeError: the actor did not return an npg distribution.
        ValueError: there is no state; or gradients are enabled, but the distribution depends on no trainable
            parameter.
    """
    with same_kernels:
        distribution = (
            actor(observations) if parameters is None else call_with(parameters, actor, observations)
        )
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"the actor must return an npg distribution, e.g. npg.DiagGaussian; "
            f"got {type(distribution).__name__}"
        )
    if distribution.coordinates[0].shape[:-1].numel() == 0:
        raise ValueError("expected at least one state, got an empty batch of observations")
    if torch.is_grad_enabled() and not any(z.requires_grad for z in distribution.coordinates):
        raise ValueError(
            "no trainable parameter of the actor reaches its distribution; look for detach() or no_grad in "
            "its forward"
        )
    return distribution


@same_kernels
def call_with(parameters: Mapping[str, Tensor], actor: nn.Module, observations: Any) -> Any:
    """Return `actor(observations)` with tensors in place of the actor's parameters, which are not modified.

    Args:
        parameters: {name: tensor}, with names as in `named_parameters()`. A parameter that several modules
            share is replaced in each of them.
        actor: the module.
        observations: input of the actor.
    """
    # Replace the tensors of every module once, under its first name: torch's own `tie_weights` replaces those
    # of a module with two names twice, and afterwards restores the replacement instead of the original.
    owners = {
        f"{prefix}.{name}".removeprefix("."): id(parameter)
        for prefix, module in actor.named_modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }
    given = {owners[name]: tensor for name, tensor in parameters.items()}
    tensors = {name: given[owner] for name, owner in owners.items() if owner in given}
    return functional_call(actor, tensors, (observations,), tie_weights=False, strict=False)
