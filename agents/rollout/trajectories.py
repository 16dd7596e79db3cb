"""The steps of one rollout, and what is computed for all of them at its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from agents.policy.recurrent.sequences import Sequences
from agents.rollout.action_sampler import ActionSampler
from agents.rollout.behaviour_weights import BehaviourWeights
from agents.rollout.deferred import Deferred
from npg.states import each

# Large enough that the cost per state no longer falls, small enough that the activations of images fit.
STATES_AT_ONCE = 1024


@dataclass
class Step:
    """One step of every environment.

    Attributes:
        observations: an array (n_envs, ...), or a dictionary of them.
        actions: as the policy sampled them, (n_envs, ...).
        rewards: (n_envs,).
        starts: whether the observation is an episode's first, (n_envs,).
        values: values of the observations, (n_envs, 1).
        log_probs: log-probabilities of the actions, (n_envs,), in nats.
        distribution_parameters: what `ActionSampler.sample` returned with the actions.
        truncated: {environment: last observation} of the episodes that this step truncated.
        recurrent_states: those after the observations, (K, layers, n_envs, H), if the policy has any.
        action_masks: which actions were allowed, (n_envs, K) of bool; None for all.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    starts: np.ndarray
    values: Tensor
    log_probs: Tensor
    distribution_parameters: Tensor | None
    truncated: dict[int, Any]
    recurrent_states: Tensor | None = None
    action_masks: np.ndarray | None = None


class Trajectories:
    """The steps of one rollout in order.

    Args:
        policy: the policy that acted.
        sampler: the sampler of its actions; None if values and log-probabilities were computed with them.
        behaviour: the weights that the policy had when it acted.
        gamma: discount factor.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        sampler: ActionSampler | None,
        behaviour: BehaviourWeights,
        gamma: float,
    ):
        self._policy = policy
        self._sampler = sampler
        self._behaviour = behaviour
        self._gamma = gamma
        self._steps: list[Step] = []
        self._evaluated = 0

    def add(self, step: Step) -> None:
        """Append a step, whose arrays may be overwritten afterwards."""
        step.observations, step.rewards = each(np.copy, step.observations), step.rewards.copy()  # type: ignore[arg-type]  # arrays
        self._steps.append(step)

    @torch.no_grad()
    def write(self, buffer: RolloutBuffer) -> None:
        """Fill an empty buffer with all steps, in order."""
        self.evaluate()
        for step in self._steps:
            actions = step.actions.reshape(len(step.actions), -1)
            buffer.add(step.observations, actions, step.rewards, step.starts, step.values, step.log_probs)
        masks = [step.action_masks for step in self._steps if step.action_masks is not None]
        buffer.action_masks = np.stack(masks) if masks else None  # type: ignore[attr-defined]

    @torch.no_grad()
    def evaluate(self) -> None:
        """Compute everything that the steps so far need from the policy, which may change afterwards."""
        with self._behaviour.restored():
            self._evaluate_steps()
            self._bootstrap()
        self._evaluated = len(self._steps)

    def _evaluate_steps(self) -> None:
        """Compute the values and log-probabilities that were not read yet."""
        deferred = [step for step in self._steps[self._evaluated :] if isinstance(step.values, Deferred)]
        for steps in self._parts(deferred):
            observations = joined([step.observations for step in steps])
            actions = np.concatenate([step.actions for step in steps])
            if isinstance(self._policy.action_space, spaces.Box):  # distributions take flat actions
                actions = actions.reshape(len(actions), -1)
            distribution_parameters = [
                step.distribution_parameters for step in steps if step.distribution_parameters is not None
            ]
            device = self._policy.device
            assert self._sampler is not None  # only a sampler defers values
            masks = [step.action_masks for step in steps if step.action_masks is not None]
            values, log_probs = self._sampler.evaluate(
                inputs_of(observations, np.concatenate(masks) if masks else None, device),
                torch.as_tensor(actions, device=device),
                torch.cat(distribution_parameters) if distribution_parameters else None,
            )
            n_envs = len(steps[0].actions)
            for step, value, log_prob in zip(
                steps, values.split(n_envs), log_probs.split(n_envs), strict=True
            ):
                assert isinstance(step.values, Deferred) and isinstance(step.log_probs, Deferred)
                step.values, step.log_probs = step.values.resolve(value), step.log_probs.resolve(log_prob)

    def _bootstrap(self) -> None:
        """Add γ V(last observation) to the reward if an episode was truncated.

        A truncated episode would have continued, so its last state has a value; that of a terminated episode
        is zero (Pardo et al. 2018, "Time limits in reinforcement learning").
        """
        truncations = [
            (step, i, last) for step in self._steps[self._evaluated :] for i, last in step.truncated.items()
        ]
        reached = [s.recurrent_states[:, :, i] for s, i, _ in truncations if s.recurrent_states is not None]
        values = last_values(self._policy, [last for _, _, last in truncations], reached)
        for (step, i, _), value in zip(truncations, values, strict=True):
            step.rewards[i] += self._gamma * value

    @staticmethod
    def _parts(steps: list[Step]) -> Iterator[list[Step]]:
        if steps:
            length = max(STATES_AT_ONCE // len(steps[0].actions), 1)
            for start in range(0, len(steps), length):
                yield steps[start : start + length]


def last_values(
    policy: ActorCriticPolicy, observations: list[Any], recurrent_states: Sequence[Tensor] = ()
) -> list[float]:
    """Return the values of single observations, in batches.

    Args:
        policy: estimates the values.
        observations: n raw observations, e.g. the last ones of truncated episodes.
        recurrent_states: the recurrent states (K, layers, H) of a recurrent policy before each of them.
    """
    values: list[float] = []
    for start in range(0, len(observations), STATES_AT_ONCE):
        part = slice(start, start + STATES_AT_ONCE)
        given: Any = policy.obs_to_tensor(joined(observations[part], np.stack))[0]
        if recurrent_states:
            given = Sequences.of_step(given, torch.stack([*recurrent_states[part]], 2))
        values += policy.predict_values(given).flatten().tolist()
    return values


def inputs_of(observations: Any, masks: np.ndarray | None, device: torch.device) -> Any:
    """Return an actor's inputs as tensors: observations, or a pair of observations and masks."""
    tensors = obs_as_tensor(observations, device)
    return tensors if masks is None else (tensors, torch.as_tensor(masks, device=device))


def joined(observations: list[Any], join: Callable[..., Any] = np.concatenate) -> Any:
    """Join batches of observations into one batch; with ``np.stack``, single observations into a batch."""
    if isinstance(observations[0], dict):
        return {key: join([part[key] for part in observations]) for key in observations[0]}
    return join(observations)
