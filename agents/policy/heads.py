"""Action distributions of npg that SB3 does not have.

Their names are those of ``policy_kwargs={"distribution": name}``.
"""

from functools import cache

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor
from torch.nn import functional as F

from agents.policy.distributions import register_distribution
from npg import Beta, DiagGaussian, FullGaussian


def n_actions(space: spaces.Space, name: str) -> int:
    """Return the number of action dimensions of a `Box`.

    Raises:
        ValueError: the action space is no `Box`.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"the distribution {name!r} is for the actions of a Box, got {space}")
    return get_action_dim(space)


def make_beta(outputs: Tensor, action_space: spaces.Box) -> Beta:
    """Return the distributions for outputs (N, 2 A): α and β are 1 + softplus of them, hence unimodal.

    The bounds are finite: an environment with others is rejected.
    """
    alpha, beta = (1 + F.softplus(outputs)).chunk(2, -1)
    low, high = (
        constant(tuple(bound.reshape(-1).tolist()), outputs.dtype, outputs.device)
        for bound in (action_space.low, action_space.high)
    )
    return Beta(alpha, beta, low, high)


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor (A,), which is copied to the device only once."""
    return torch.tensor(values, dtype=dtype, device=device)


def make_full_gaussian(outputs: Tensor, action_space: spaces.Box) -> FullGaussian:
    """Return the distributions for outputs (N, A + A (A + 1) / 2); at 0, the covariance is the identity."""
    size = get_action_dim(action_space)
    return FullGaussian(outputs[..., :size], outputs[..., size:])


register_distribution(
    "beta", n_outputs=lambda space: 2 * n_actions(space, "beta"), make=make_beta, mode=lambda d: d.mean
)
register_distribution(
    "full_gaussian",
    n_outputs=lambda space: (size := n_actions(space, "full_gaussian")) + size * (size + 1) // 2,
    make=make_full_gaussian,
    mode=lambda d: d.mean,
)
register_distribution(
    "state_dependent_gaussian",
    n_outputs=lambda space: 2 * n_actions(space, "state_dependent_gaussian"),
    make=lambda outputs, _: DiagGaussian(*outputs.chunk(2, -1)),
    mode=lambda d: d.mean,
)
