"""Recurrent policies: LSTM or GRU between the feature extractors and the networks of `MlpPolicy`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    MlpExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.policy.actions import from_policy
from agents.policy.masks import masked_distribution, on_host
from agents.policy.policies import MlpPolicy, register_policy
from agents.policy.recurrent.checks import check_arguments, checked_starts, checked_states
from agents.policy.recurrent.layers import CELLS, RecurrentLayers
from agents.policy.recurrent.sequences import Packing, Sequences
from agents.ranks import ONE, Ranks
from npg.kernels import same_kernels
from npg.states import leaves_of


class MlpLstmPolicy(MlpPolicy):
    """An `MlpPolicy` with memory, with the arguments of sb3-contrib's recurrent policies.

    Its networks take `Sequences`; `predict` takes raw observations, as SB3's does.

    Other arguments are those of `MlpPolicy`.

    Args:
        lstm_hidden_size: H, the units of each recurrent layer.
        n_lstm_layers: number of recurrent layers.
        shared_lstm: whether the critic uses the actor's recurrent layers, which it does not train.
        enable_critic_lstm: whether the critic has recurrent layers of its own; if it has none at all, it has
            a linear layer in their place.
        lstm_kwargs: further arguments of the layers: "bias" and "dropout". Dropout has no effect, since
            rollouts and updates use the policy in evaluation mode: its KL to itself has to be 0.
        cell: "lstm" or "gru".
        share_features_extractor: None for True if the recurrent layers are shared, else False.

    Raises:
        ValueError: an argument is out of range.
        AssertionError: arguments that exclude one another, as in sb3-contrib.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: Mapping[str, Any] | None = None,
        cell: str = "lstm",
        share_features_extractor: bool | None = None,
        **kwargs: Any,
    ):
        share = shared_lstm if share_features_extractor is None else share_features_extractor
        check_arguments(lstm_hidden_size, n_lstm_layers, lstm_kwargs or {}, cell)
        if shared_lstm and (enable_critic_lstm or not share):
            raise AssertionError(
                "shared_lstm=True needs enable_critic_lstm=False and share_features_extractor=True: the "
                "critic uses the actor's recurrent layers, and their features"
            )
        self.lstm_hidden_size, self.n_lstm_layers = lstm_hidden_size, n_lstm_layers
        self.shared_lstm, self.enable_critic_lstm = shared_lstm, enable_critic_lstm
        self.lstm_kwargs, self.cell = dict(lstm_kwargs or {}), cell
        super().__init__(
            observation_space, action_space, lr_schedule, share_features_extractor=share, **kwargs
        )

    def _build_mlp_extractor(self) -> None:
        def layers() -> RecurrentLayers:
            return CELLS[self.cell](
                int(self.features_dim), self.lstm_hidden_size, self.n_lstm_layers, **self.lstm_kwargs
            )

        self.lstm_actor = layers()
        self.lstm_critic = layers() if self.enable_critic_lstm else None
        own = not (self.enable_critic_lstm or self.shared_lstm)
        self.critic = nn.Linear(self.features_dim, self.lstm_hidden_size) if own else None
        self.mlp_extractor = MlpExtractor(
            self.lstm_hidden_size,
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            device=self.device,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = (
            "lstm_hidden_size",
            "n_lstm_layers",
            "shared_lstm",
            "enable_critic_lstm",
            "lstm_kwargs",
            "cell",
        )
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def zero_states(self, n: int) -> Tensor:
        """Return the recurrent states at the starts of n sequences, (K, layers, n, H).

        The first K are the actor's, h and, of an LSTM, the cell state; the critic's follow if it has its own.
        """
        parts = self.lstm_actor.cell.parts * (1 + self.enable_critic_lstm)
        shape = (parts, self.n_lstm_layers, n, self.lstm_hidden_size)
        return next(self.lstm_actor.parameters()).new_zeros(shape)

    def with_memory(self, observations: Any, length: int = 1) -> Sequences:
        """Return raw observations (N, ...) as sequences of a length, which start from zeros."""
        n = len(leaves_of(observations)[0]) // length
        return Sequences(observations, (length,) * n, self.zero_states(n))

    def forward(  # type: ignore[override]
        self, obs: Sequences, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return actions, values, log-probabilities and new recurrent states, for sequences of one state."""
        distribution, of_actor = self._distribution(obs.observations, obs.packing, obs.states, action_masks)
        values, of_critic = self._value(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        states = torch.cat([of_actor, of_critic]) if self.enable_critic_lstm else of_actor
        return actions.reshape((-1, *(self.action_space.shape or ()))), values, log_prob, states

    def get_distribution(self, obs: Sequences, action_masks: Any = None) -> Distribution:  # type: ignore[override]
        """Return the distribution of actions, or of the allowed ones alone, at the N states of sequences."""
        return self._distribution(obs.observations, obs.packing, obs.states, action_masks)[0]

    def predict_values(self, obs: Sequences) -> Tensor:  # type: ignore[override]
        """Return the values (N, 1) of the N states of sequences, in units of the return."""
        return self._value(obs)[0]

    def evaluate_actions(  # type: ignore[override]
        self, obs: Sequences, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropy of actions at the N states of sequences."""
        distribution = self.get_distribution(obs, action_masks)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def observe(self, observations: Sequences, ranks: Ranks = ONE) -> None:  # type: ignore[override]
        """Update the observation normaliser with the raw observations of every rank."""
        super().observe(observations.observations, ranks)

    def _features(self, observations: Any, extractor: BaseFeaturesExtractor) -> Tensor:
        return BasePolicy.extract_features(self, self._normalised(observations), extractor)

    @same_kernels
    def _distribution(
        self, observations: Any, packing: Packing | None, states: Tensor, action_masks: Any = None
    ) -> tuple[Distribution, Tensor]:
        """Return the distributions of (allowed) actions, and the actor's next recurrent states."""
        features = self._features(observations, self.pi_features_extractor)
        memory, states = self.lstm_actor(features, packing, states[: self.lstm_actor.cell.parts])
        latent = self.mlp_extractor.forward_actor(memory)
        if action_masks is None:
            return self._get_action_dist_from_latent(latent), states
        return masked_distribution(self, latent, action_masks), states

    def _predict(  # type: ignore[override]
        self, observation: Any, states: Tensor, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return actions and the actor's next recurrent states, for n observations and recurrent states."""
        distribution, after = self._distribution(observation, None, states, action_masks)
        return distribution.get_actions(deterministic=deterministic), after

    @same_kernels
    def _value(self, obs: Sequences) -> tuple[Tensor, Tensor]:
        """Return the values in units of the return, and the next recurrent states of the critic's layers."""
        features = self._features(obs.observations, self.vf_features_extractor)
        states = obs.states[self.lstm_actor.cell.parts if self.enable_critic_lstm else 0 :]
        if self.critic is not None:
            memory = self.critic(features)
        else:
            layers = self.lstm_actor if self.lstm_critic is None else self.lstm_critic
            memory, states = layers(features, obs.packing, states)
        values = self.value_net(self.mlp_extractor.forward_critic(memory))
        return self._in_return_units(values), states

    def predict(  # type: ignore[override]
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return actions in the dtype of the action space, and the next recurrent states.

        Args:
            observation: one raw observation, or those of n environments.
            state: what the last call returned; None at the start: arrays (layers, n, H) of h and, of an LSTM,
                of the cell state.
            episode_start: whether each observation is the first of an episode, (n,); None if it is not. There
                the recurrent state is reset.
            deterministic: whether to take the most likely actions instead of sampling.
            action_masks: which actions are allowed, one row per observation; None for all.

        Raises:
            ValueError: `state` or `episode_start` does not fit the observations.
        """
        self.set_training_mode(False)
        given, several = self.obs_to_tensor(observation)
        n = len(leaves_of(given)[0])
        zeros = self.zero_states(n)[: self.lstm_actor.cell.parts]
        states = checked_states(state, zeros) * ~checked_starts(episode_start, n).to(self.device)
        with torch.no_grad():
            chosen, after = self._predict(given, states, deterministic, on_host(action_masks))
        actions = chosen.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box) and self.squash_output:
            actions = self.unscale_action(actions)
        actions = from_policy(self.action_space, actions)
        return actions if several else actions.squeeze(axis=0), tuple(after.cpu().numpy())


class CnnLstmPolicy(MlpLstmPolicy):
    """`MlpLstmPolicy` for images, with NatureCNN features."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class MultiInputLstmPolicy(MlpLstmPolicy):
    """`MlpLstmPolicy` for dictionaries of observations."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


for _class in (MlpLstmPolicy, CnnLstmPolicy, MultiInputLstmPolicy):
    register_policy(_class.__name__, _class)
