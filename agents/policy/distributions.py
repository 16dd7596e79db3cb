"""Convert SB3's action distributions to npg's, and use npg's in an SB3 policy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.distributions import Distribution as SB3Distribution
from torch import Tensor, distributions, nn

from agents.policy.names import check_new
from npg import Bernoulli, Categorical, DiagGaussian, Distribution, MultiCategorical


@dataclass(frozen=True)
class DistributionHead:
    """How a policy's last layer parametrises a distribution.

    Attributes:
        n_outputs: returns the number of the layer's outputs for an action space.
        make: returns the distribution for outputs (N, n_outputs) and an action space.
        mode: returns the actions that `predict` takes with ``deterministic=True``.
    """

    n_outputs: Callable[[spaces.Space], int]
    make: Callable[[Tensor, Any], Distribution]
    mode: Callable[[Any], Tensor]


# By the name in `policy_kwargs={"distribution": name}`; SB3's own distributions follow from the action space.
HEADS: dict[str, DistributionHead] = {}


def register_distribution(
    name: str,
    *,
    n_outputs: Callable[[spaces.Space], int],
    make: Callable[[Tensor, Any], Distribution],
    mode: Callable[[Any], Tensor],
) -> None:
    """Make an npg distribution available as ``policy_kwargs={"distribution": name}``.

    Args:
        name: the name for `policy_kwargs`.
        n_outputs: returns the size of the policy's last layer for an action space; it may raise ValueError if
            the distribution does not fit the space.
        make: returns the distribution for the layer's outputs (N, n_outputs) and the action space.
        mode: returns the actions (N, ...) that a distribution takes with ``deterministic=True``.

    Raises:
        ValueError: the name is taken.
    """
    check_new(name, HEADS, "distribution")
    HEADS[name] = DistributionHead(n_outputs, make, mode)


class HeadDistribution(CategoricalDistribution):
    """An npg distribution with the interface of an SB3 distribution.

    For subclasses of its `CategoricalDistribution`, SB3 makes the last layer and passes its outputs to them.

    Args:
        head: the policy's head.
        action_space: the policy's action space.
    """

    distribution: Distribution  # type: ignore[assignment]

    def __init__(self, head: DistributionHead, action_space: spaces.Space):
        super().__init__(0)
        self.head = head
        self.n_outputs = head.n_outputs(action_space)
        self.action_space = action_space

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """Return the policy's last layer."""
        return nn.Linear(latent_dim, self.n_outputs)

    def proba_distribution(self, action_logits: Tensor) -> Self:
        """Set the distribution to that of the last layer's outputs (N, n_outputs)."""
        self.distribution = self.head.make(action_logits, self.action_space)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of actions, (N,)."""
        return self.distribution.log_prob(actions)

    def entropy(self) -> Tensor:
        """Return the entropy, (N,)."""
        return self.distribution.entropy()

    def sample(self) -> Tensor:
        """Return one action per state."""
        return self.distribution.sample()

    def mode(self) -> Tensor:
        """Return the deterministic action of every state."""
        return self.head.mode(self.distribution)


def to_npg(distribution: SB3Distribution) -> Distribution:
    """Return an SB3 distribution as an immutable npg distribution.

    SB3's object belongs to the policy and changes with its next call; its tensors do not.

    Raises:
        TypeError: there is no npg counterpart.
    """
    if isinstance(distribution, HeadDistribution):
        return distribution.distribution
    inner: Any = distribution.distribution
    match inner:
        case distributions.Normal() if not isinstance(distribution, SquashedDiagGaussianDistribution):
            return DiagGaussian(inner.loc, inner.scale.log())
        case distributions.Categorical():
            return Categorical(inner.logits)
        case distributions.Bernoulli():
            return Bernoulli(inner.logits)
        case list() if all(isinstance(choice, distributions.Categorical) for choice in inner):
            return MultiCategorical([choice.logits for choice in inner])
        case Distribution():
            return inner
    raise TypeError(
        f"no natural gradient is known for {type(distribution).__name__}; expected a policy with a diagonal "
        "Gaussian, gSDE, categorical, multi-categorical or Bernoulli distribution, or one given to "
        "register_distribution"
    )
