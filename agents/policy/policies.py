"""SB3's actor-critic policies, with separate feature extractors and normalisers of their own."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.policy import heads  # noqa: F401  # registers npg's own
from agents.policy.actions import from_policy, starts_at_zero
from agents.policy.distributions import HEADS, HeadDistribution
from agents.policy.masks import masked_distribution, on_host
from agents.policy.names import check_new, with_classes
from agents.policy.normalisation import ObservationNormaliser, RunningMoments
from agents.policy.observations import count_from_zero
from agents.ranks import ONE, Ranks
from npg.kernels import same_kernels


class MlpPolicy(ActorCriticPolicy):
    """An SB3 policy whose actor and critic have separate feature extractors by default.

    Only the policy step may change parameters that the actor uses, so the critic fit does not train a shared
    feature extractor.

    The observation normaliser is constant during a rollout and its update. The return normaliser is updated
    before the critic fit, without changing any predicted value. The policy takes raw observations, and is
    saved with its normalisers.

    Other arguments are SB3's; classes such as `activation_fn` may be given by name, e.g. "ReLU".

    Args:
        share_features_extractor: whether actor and critic share one feature extractor.
        normalize_observations: whether quantities among the observations (boxes, not images) are normalised
            by their running mean and variance.
        normalize_returns: whether the critic predicts returns in units of their running standard deviation.
        distribution: "beta" (for bounded actions), "full_gaussian" (correlated dimensions),
            "state_dependent_gaussian", or a name given to `register_distribution`; None for SB3's.

    Raises:
        ValueError: there is no such distribution, or it is combined with gSDE.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        share_features_extractor: bool = False,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        distribution: str | None = None,
        **kwargs: Any,
    ):
        self.distribution = distribution
        self._counts_from_zero = starts_at_zero(observation_space)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            share_features_extractor=share_features_extractor,
            **with_classes(kwargs),
        )
        self.observation_normaliser = (
            ObservationNormaliser(observation_space) if normalize_observations else None
        )
        self.return_moments = RunningMoments() if normalize_returns else None
        if normalize_returns and isinstance(self.value_net, nn.Linear):
            # Random initial values would distort the first returns, and these the first statistics.
            nn.init.zeros_(self.value_net.weight)
            nn.init.zeros_(self.value_net.bias)

    def _build(self, lr_schedule: Schedule) -> None:
        if self.distribution is not None:
            if self.distribution not in HEADS:
                known = ", ".join(map(repr, HEADS))
                raise ValueError(
                    f"expected the name of a registered distribution ({known}), got {self.distribution!r}; "
                    "register it with agents.register_distribution"
                )
            if self.use_sde:
                raise ValueError(
                    f"use_sde=True needs SB3's Gaussian, not the distribution {self.distribution!r}; leave "
                    "one of the two out"
                )
            self.action_dist = HeadDistribution(HEADS[self.distribution], self.action_space)
        if self.optimizer_class is torch.optim.Adam:
            # One kernel per parameter: a step of a small critic takes a third less time.
            self.optimizer_kwargs = {"fused": True, **self.optimizer_kwargs}
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "share_features_extractor": self.share_features_extractor,
            "normalize_observations": self.observation_normaliser is not None,
            "normalize_returns": self.return_moments is not None,
            "distribution": self.distribution,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Switch to training or evaluation mode; see SB3."""
        super().set_training_mode(mode)
        for module in self.modules():
            # cuDNN has no gradient of recurrent layers in evaluation mode; without dropout, modes are equal.
            if isinstance(module, nn.RNNBase) and not module.dropout:
                module.train()

    def _normalised(self, obs: PyTorchObs) -> PyTorchObs:
        if not self._counts_from_zero:
            obs = count_from_zero(self.observation_space, obs)
        return obs if self.observation_normaliser is None else self.observation_normaliser(obs)

    def _in_return_units(self, values: Tensor) -> Tensor:
        if self.return_moments is None:
            return values
        return values * self.return_moments.deviation.to(values) + self.return_moments.mean.to(values)

    @same_kernels
    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities at N raw observations."""
        if action_masks is not None:
            distribution = self.get_distribution(obs, action_masks)
            actions = distribution.get_actions(deterministic=deterministic)
            log_prob = distribution.log_prob(actions)
            return actions.reshape((-1, *self.action_space.shape)), self.predict_values(obs), log_prob  # type: ignore[misc]
        actions, values, log_prob = super().forward(self._normalised(obs), deterministic)  # type: ignore[arg-type]
        return actions, self._in_return_units(values), log_prob

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Return actions in the dtype of the action space, and `state`.

        Args:
            observation: one raw observation, or several.
            state: returned as it is, since the policy is not recurrent.
            episode_start: not used, as in SB3.
            deterministic: whether to take the most likely actions instead of sampling.
            action_masks: which actions are allowed, as an environment's `action_masks()` returns it, one row
                per observation; None for all.

        Raises:
            MaskError: the masks have the wrong shape, or one allows no action.
        """
        if action_masks is None:
            actions, state = super().predict(observation, state, episode_start, deterministic)
            return from_policy(self.action_space, actions), state
        self.set_training_mode(False)
        tensors, several = self.obs_to_tensor(observation)
        with torch.no_grad():
            chosen = self._predict(tensors, deterministic, on_host(action_masks))
        array = chosen.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        return from_policy(self.action_space, array if several else array.squeeze(axis=0)), state

    def _predict(
        self, observation: PyTorchObs, deterministic: bool = False, action_masks: Any = None
    ) -> Tensor:
        return self.get_distribution(observation, action_masks).get_actions(deterministic=deterministic)

    @same_kernels
    def get_distribution(self, obs: PyTorchObs, action_masks: Any = None) -> Distribution:
        """Return the distribution of actions at N raw observations, or of the allowed ones alone.

        Args:
            obs: N raw observations.
            action_masks: see `agents.policy.masks.masked_distribution`; None if all actions are allowed.
        """
        if action_masks is None:
            return super().get_distribution(self._normalised(obs))
        features = BasePolicy.extract_features(self, self._normalised(obs), self.pi_features_extractor)
        return masked_distribution(self, self.mlp_extractor.forward_actor(features), action_masks)

    @same_kernels
    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return the values (N, 1) of N raw observations, in units of the return."""
        return self._in_return_units(super().predict_values(self._normalised(obs)))

    @same_kernels
    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropy of actions at N raw observations."""
        if action_masks is not None:
            distribution = self.get_distribution(obs, action_masks)
            return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()
        values, log_prob, entropy = super().evaluate_actions(self._normalised(obs), actions)
        return self._in_return_units(values), log_prob, entropy

    def observe(self, observations: PyTorchObs, ranks: Ranks = ONE) -> None:
        """Update the observation normaliser with N raw observations of every rank."""
        if self.observation_normaliser is not None:
            self.observation_normaliser.update(observations, ranks)

    def written_by_returns(self) -> list[Tensor]:
        """Return the tensors that `observe_returns` writes."""
        if self.return_moments is None:
            return []
        return [*self.return_moments.buffers(), *self.value_net.parameters()]

    @torch.no_grad()
    def observe_returns(self, returns: Tensor, ranks: Ranks = ONE) -> None:
        """Update the return normaliser with returns (N,) of every rank, without changing any predicted value.

        The last layer is rescaled to compensate for the new statistics (van Hasselt et al. 2016, "Learning
        values across many orders of magnitude", eq. 4).
        """
        moments = self.return_moments
        if moments is None:
            return
        mean, deviation = moments.mean.clone(), moments.deviation
        moments.update(returns, ranks)
        if isinstance(self.value_net, nn.Linear):
            ratio = (deviation / moments.deviation).to(self.value_net.weight)
            shift = ((mean - moments.mean) / moments.deviation).to(self.value_net.bias)
            self.value_net.weight.mul_(ratio)
            self.value_net.bias.mul_(ratio).add_(shift)


class CnnPolicy(MlpPolicy):
    """`MlpPolicy` for images, with NatureCNN features."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class MultiInputPolicy(MlpPolicy):
    """`MlpPolicy` for dictionaries of observations."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


# By the name in an agent's argument `policy`.
POLICIES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}


def register_policy(name: str, policy_class: type[ActorCriticPolicy]) -> None:
    """Make a policy available to every agent as ``policy=name``.

    Raises:
        ValueError: the name is taken.
    """
    check_new(name, POLICIES, "policy")
    POLICIES[name] = policy_class
