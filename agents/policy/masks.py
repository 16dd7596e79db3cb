"""Masks: which actions an environment allows in a state.

A mask has one entry per action of a `Discrete` space; for a `MultiDiscrete`, one per value of each
dimension, dimension by dimension; for a `MultiBinary`, two per bit: whether it may be 0, and whether it may
be 1. This is sb3-contrib's convention.
"""

import inspect
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.policy.distributions import DistributionHead, HeadDistribution
from npg import Bernoulli, Categorical, MultiCategorical

# How SB3 parametrises its distributions by the last layer; without the normalisation of its own, so that the
# outputs of forbidden actions have no effect at all.
STANDARD_HEADS: dict[type[spaces.Space], DistributionHead] = {
    spaces.Discrete: DistributionHead(
        n_outputs=lambda space: int(space.n),  # type: ignore[attr-defined]
        make=lambda outputs, _: Categorical(outputs),
        mode=lambda policy: policy.logits.argmax(-1),
    ),
    spaces.MultiDiscrete: DistributionHead(
        n_outputs=lambda space: int(space.nvec.sum()),  # type: ignore[attr-defined]
        make=lambda outputs, space: MultiCategorical(outputs.split(space.nvec.tolist(), -1)),
        mode=lambda policy: torch.stack([logits.argmax(-1) for logits in policy.logits], -1),
    ),
    spaces.MultiBinary: DistributionHead(
        n_outputs=lambda space: int(space.n),  # type: ignore[attr-defined]
        make=lambda outputs, _: Bernoulli(outputs),
        mode=lambda policy: (policy.logits > 0).to(policy.logits.dtype),
    ),
}


class MaskError(ValueError):
    """A mask has the wrong shape, or allows no action."""


def choices(space: spaces.Space) -> list[int]:
    """Return the number of a mask's entries for each choice that an action of the space makes.

    Raises:
        MaskError: the space has no single actions.
    """
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(n) for n in space.nvec]
        case spaces.MultiBinary():
            return [2] * space.shape[0]  # networks have no other shapes of bits
    raise MaskError(f"masks are for Discrete, MultiDiscrete and MultiBinary actions, not for {space}")


def checked_masks(masks: Any, space: spaces.Space, n: int) -> np.ndarray:
    """Return the masks of n states as an array (n, K) of bool.

    Args:
        masks: (n, K), of bool, or of 0 and 1; (K,) if n is 1. If all choices have the same number of entries,
            they may have a dimension of their own: (n, A, K / A).
        space: the action space.
        n: the number of states.

    Raises:
        MaskError: the masks have another shape or other values, or one allows no action.
    """
    sizes = choices(space)
    rows = [(sum(sizes),), *([(len(sizes), sizes[0])] if len(set(sizes)) == 1 else [])]
    entries = " + ".join(map(str, sizes)) if len(sizes) < 9 else sum(sizes)
    expected = f"{space} needs masks of shape {(n, *rows[0])}, one row per state with {entries} entries"
    try:
        array = np.asarray(masks)
    except ValueError:
        raise MaskError(f"{expected}; got rows of different lengths") from None
    if array.shape not in [(n, *row) for row in rows] and not (n == 1 and array.shape in rows):
        value = "" if array.ndim else f", {masks!r:.80}"
        raise MaskError(f"{expected}; got {array.shape}{value}")
    if not (array.dtype == bool or (array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all())):
        raise MaskError(
            f"a mask has True or 1 for an allowed action and False or 0 for others; got {array!s:.200}"
        )
    result = array.reshape(n, sum(sizes)).astype(bool)
    allowed = np.logical_or.reduceat(result, np.cumsum([0, *sizes[:-1]]), axis=1)
    if not allowed.all():
        state, choice = np.argwhere(~allowed)[0].tolist()
        which = "the mask" if n == 1 else f"the mask of state {state} of {n}"
        dimension = "" if len(sizes) == 1 else f" in dimension {choice} of {space}"
        raise MaskError(f"{which} allows no action{dimension}")
    return result


def on_host(masks: Any) -> Any:
    """Return a user's masks, a tensor as an array: `masked_distribution` does not check tensors."""
    return masks.numpy(force=True) if isinstance(masks, Tensor) else masks


def split(inputs: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return the observations among an actor's inputs, and the policy's keyword argument for masks, if any.

    An actor's inputs are observations, or a pair of observations and masks (N, K).
    """
    if isinstance(inputs, tuple):
        observations, masks = inputs
        return observations, {"action_masks": masks}
    return inputs, {}


def can_mask(policy: ActorCriticPolicy) -> bool:
    """Return whether a policy's methods take the argument `action_masks`."""
    methods = (policy.get_distribution, policy.evaluate_actions, policy.forward, policy.predict)
    return all("action_masks" in inspect.signature(method).parameters for method in methods)


def masked_distribution(policy: ActorCriticPolicy, latent: Tensor, masks: Any) -> HeadDistribution:
    """Return a policy's distributions on the allowed actions alone.

    Args:
        policy: the policy.
        latent: inputs of its last layer, (N, D).
        masks: as `checked_masks` takes them; or a tensor (N, K) of bool, each row of which allows an action:
            this is not checked, since it would wait for the device.

    Raises:
        MaskError: the masks do not fit the action space, or the policy has its own way from the last layer to
            the distribution.
        TypeError: the distribution has no single actions.
        ValueError: a tensor of masks has the wrong shape or dtype.
    """
    space, kind = policy.action_space, type(policy)
    if kind._get_action_dist_from_latent is not ActorCriticPolicy._get_action_dist_from_latent:
        raise MaskError(
            f"{kind.__name__} makes its distribution in a _get_action_dist_from_latent of its own, which "
            "takes no masks; override get_distribution(obs, action_masks=None) instead"
        )
    outputs: Tensor = policy.action_net(latent)
    if not isinstance(masks, Tensor):
        masks = torch.as_tensor(checked_masks(masks, space, len(outputs)), device=outputs.device)
    own = policy.action_dist
    head = own.head if isinstance(own, HeadDistribution) else STANDARD_HEADS[type(space)]
    result = HeadDistribution(head, space).proba_distribution(outputs)
    result.distribution = result.distribution.masked(masks)
    return result
