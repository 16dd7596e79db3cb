"""Sample actions during a rollout, while the policy does not change."""

from typing import Any, Protocol

import torch
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.policy.masks import split
from agents.policy.plain_layers import plain_layers
from agents.policy.policies import MlpPolicy
from npg import Categorical, DiagGaussian

STANDARD_DISTRIBUTION = (ActorCriticPolicy.get_distribution, MlpPolicy.get_distribution)
# A user's own forward may sample actions differently, and so may a user's own extract_features, which SB3's
# forward calls but its get_distribution does not.
STANDARD = {
    "forward": (ActorCriticPolicy.forward, MlpPolicy.forward),
    "extract_features": (ActorCriticPolicy.extract_features,),
}
STANDARD_HEAD = ActorCriticPolicy._get_action_dist_from_latent


class ActionSampler(Protocol):
    """Sample actions now; compute values and log-probabilities later in one batch.

    Inputs are those of `PolicyActor`: observations, or a pair of observations and masks.
    """

    def sample(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions (n_envs, ...), and the distribution parameters that `evaluate` needs, if any."""
        ...

    def evaluate(
        self, inputs: Any, actions: Tensor, distribution_parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return values (N, 1) and log-probabilities (N,) of actions sampled over any number of steps."""
        ...


def make_sampler(policy: ActorCriticPolicy) -> ActionSampler | None:
    """Return the fastest sampler for a policy; None if its `forward` has to be called."""
    standard = (
        getattr(getattr(policy, name), "__func__", None) in methods for name, methods in STANDARD.items()
    )
    if policy.use_sde or not all(standard):
        return None
    layers = plain_actor(policy)
    return PolicySampler(policy) if layers is None else MlpSampler(policy, layers)


class PolicySampler:
    """Sample with the policy's own methods."""

    def __init__(self, policy: ActorCriticPolicy):
        self._policy = policy

    def sample(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions, and None."""
        observations, masks = split(inputs)
        return self._policy.get_distribution(observations, **masks).get_actions(), None

    def evaluate(
        self, inputs: Any, actions: Tensor, distribution_parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return values and log-probabilities by a second pass through actor and critic."""
        observations, masks = split(inputs)
        values, log_prob, _ = self._policy.evaluate_actions(observations, actions, **masks)
        return values, log_prob


class MlpSampler:
    """Sample the same actions as SB3 from a plain MLP, without SB3's Python overhead.

    On a few dozen states that overhead takes most of the time. The distribution parameters are kept, so
    that the actor runs only once per state.

    Args:
        policy: a policy with SB3's diagonal Gaussian or categorical distribution.
        layers: see `plain_actor`.

    Attributes:
        log_std: logarithm of the standard deviation, (A,); None of a categorical distribution.
    """

    def __init__(self, policy: ActorCriticPolicy, layers: list[nn.Module]):
        self._policy = policy
        self._layers = [layer.forward for layer in layers]
        self._normaliser = policy.observation_normaliser if isinstance(policy, MlpPolicy) else None
        self.log_std = getattr(policy, "log_std", None)

    def sample(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Return actions, and the distribution parameters: means or logits, one row per environment."""
        observations, masks = split(inputs)
        parameters = self.parameters(observations)
        for allowed in masks.values():
            parameters = Categorical(parameters).masked(allowed).logits
        return self._sample(parameters), parameters

    def parameters(self, observations: Any) -> Tensor:
        """Return the distribution parameters (N, K)."""
        x = observations if self._normaliser is None else self._normaliser(observations)
        x = x.float().flatten(1)
        for layer in self._layers:
            x = layer(x)
        return x

    def evaluate(
        self, inputs: Any, actions: Tensor, distribution_parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return values and log-probabilities, the latter from the kept distribution parameters."""
        assert distribution_parameters is not None
        distribution = (
            Categorical(distribution_parameters)
            if self.log_std is None
            else DiagGaussian(distribution_parameters, self.log_std)
        )
        return self._policy.predict_values(split(inputs)[0]), distribution.log_prob(actions)

    def _sample(self, output: Tensor) -> Tensor:
        """Sample as torch.distributions does, so that a seed gives the same actions as through SB3."""
        if self.log_std is None:
            probabilities = (output - output.logsumexp(-1, keepdim=True)).softmax(-1)
            return torch.multinomial(probabilities, 1, replacement=True).squeeze(1)
        noise = torch.normal(torch.zeros_like(output), torch.ones_like(output))
        return output + noise * self.log_std.exp()


def plain_actor(policy: ActorCriticPolicy) -> list[nn.Module] | None:
    """Return the actor's layers if SB3's own methods apply them to a vector; see `plain_layers`."""
    standard = (
        getattr(policy.get_distribution, "__func__", None) in STANDARD_DISTRIBUTION
        and getattr(policy._get_action_dist_from_latent, "__func__", None) is STANDARD_HEAD
        and type(policy.action_dist) in (DiagGaussianDistribution, CategoricalDistribution)
    )
    return plain_layers(policy) if standard else None
