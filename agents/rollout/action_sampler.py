"""How a policy acts during a rollout, in which it does not change."""

from typing import Any, Protocol

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from agents.policy.policies import MlpPolicy
from npg import Categorical, DiagGaussian

ELEMENTWISE = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Identity)
STANDARD_DISTRIBUTION = (ActorCriticPolicy.get_distribution, MlpPolicy.get_distribution)
# A forward of the user's own may draw actions in a way of its own. SB3's calls extract_features, which its
# get_distribution passes over.
STANDARD = {
    "forward": (ActorCriticPolicy.forward, MlpPolicy.forward),
    "extract_features": (ActorCriticPolicy.extract_features,),
}
STANDARD_HEAD = ActorCriticPolicy._get_action_dist_from_latent


class Acting(Protocol):
    """Draws actions now, and tells later what they and their observations are worth."""

    def draw(self, observations: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions (n_envs, ...), and what `evaluate` wants to know of their distribution."""
        ...

    def evaluate(self, observations: Any, actions: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return values (N, 1) and log-probabilities (N,) of the actions drawn in any number of steps."""
        ...


def acting(policy: ActorCriticPolicy) -> Acting | None:
    """Return the leanest way in which a policy can act; None where its forward has to be called."""
    known = (
        getattr(getattr(policy, name), "__func__", None) in methods for name, methods in STANDARD.items()
    )
    if policy.use_sde or not all(known):
        return None
    layers = plain_layers(policy)
    return AnyActing(policy) if layers is None else PlainActing(policy, layers)


class AnyActing:
    """Asks the policy itself."""

    def __init__(self, policy: ActorCriticPolicy):
        self._policy = policy

    def draw(self, observations: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions and nothing."""
        return self._policy.get_distribution(observations).get_actions(), None

    def evaluate(self, observations: Any, actions: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return values and log-probabilities by a second pass through actor and critic."""
        values, log_prob, _ = self._policy.evaluate_actions(observations, actions)
        return values, log_prob


class PlainActing:
    """Draws the same numbers from a plain MLP, without the layers of Python around it.

    On a few dozen states these take most of the time. What the network says of a state is kept, so that
    the actor sees it once.

    Args:
        policy: with a usual Gaussian or categorical distribution.
        layers: see `plain_layers`.
    """

    def __init__(self, policy: ActorCriticPolicy, layers: list[nn.Module]):
        self._policy = policy
        self._layers = [layer.forward for layer in layers]
        self._normaliser = policy.observation_normaliser if isinstance(policy, MlpPolicy) else None
        self._log_std = getattr(policy, "log_std", None)

    def draw(self, observations: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions, and the mean or logits of each."""
        x = observations if self._normaliser is None else self._normaliser(observations)
        x = x.float().flatten(1)
        for layer in self._layers:
            x = layer(x)
        return self._sample(x), x

    def evaluate(self, observations: Any, actions: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return values and log-probabilities; the actor has said all before."""
        assert known is not None
        distribution = Categorical(known) if self._log_std is None else DiagGaussian(known, self._log_std)
        return self._policy.predict_values(observations), distribution.log_prob(actions)

    def _sample(self, known: Tensor) -> Tensor:
        """Draw as torch.distributions does, so that a seed gives what it gives through SB3."""
        if self._log_std is None:
            probabilities = (known - known.logsumexp(-1, keepdim=True)).softmax(-1)
            return torch.multinomial(probabilities, 1, replacement=True).squeeze(1)
        noise = torch.normal(torch.zeros_like(known), torch.ones_like(known))
        return known + noise * self._log_std.exp()


def plain_layers(policy: ActorCriticPolicy) -> list[nn.Module] | None:
    """Return the actor's layers if it is only linear layers and activations on a vector, else None."""
    space = policy.observation_space
    if not (
        getattr(policy.get_distribution, "__func__", None) in STANDARD_DISTRIBUTION
        and getattr(policy._get_action_dist_from_latent, "__func__", None) is STANDARD_HEAD
        and isinstance(space, spaces.Box)
        and not is_image_space(space)
        and type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_dist) in (DiagGaussianDistribution, CategoricalDistribution)
    ):
        return None
    modules: list[nn.Module] = [*policy.mlp_extractor.policy_net, policy.action_net]
    if not all(type(module) in (nn.Linear, *ELEMENTWISE) for module in modules):
        return None
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
    return None if hooked else modules
