"""The steps of one rollout, and what is worked out for all of them at its end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from agents.rollout.action_sampler import Acting
from agents.rollout.behaviour_weights import AsActed
from agents.rollout.deferred import Deferred

# Large enough that a network's cost a state no longer falls, small enough for the activations of images.
STATES_AT_ONCE = 1024


@dataclass
class Step:
    """One step of every environment.

    Attributes:
        observations: an array (n_envs, ...), or a dictionary of them.
        actions: as the policy drew them, (n_envs, ...).
        rewards: (n_envs,).
        starts: whether the observation is an episode's first, (n_envs,).
        values: of the observations, (n_envs, 1).
        log_probs: of the actions, (n_envs,), in nats.
        known: what `Acting.draw` gave with the actions.
        cut: last observations of the episodes that were truncated here, by environment.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    starts: np.ndarray
    values: Tensor
    log_probs: Tensor
    known: Tensor | None
    cut: dict[int, Any]


class Trajectories:
    """The steps of one rollout in order.

    Args:
        policy: the one that acted.
        actor: how it did; None if it said all there and then.
        acted: with which numbers.
        gamma: discount factor.
    """

    def __init__(self, policy: ActorCriticPolicy, actor: Acting | None, acted: AsActed, gamma: float):
        self._policy = policy
        self._actor = actor
        self._acted = acted
        self._gamma = gamma
        self._steps: list[Step] = []
        self._settled = 0

    def add(self, step: Step) -> None:
        """Append a step, whose arrays may be overwritten afterwards."""
        step.observations, step.rewards = copied(step.observations), step.rewards.copy()
        self._steps.append(step)

    @torch.no_grad()
    def write(self, buffer: RolloutBuffer) -> None:
        """Fill an empty buffer with all steps, in order."""
        self.settle()
        for step in self._steps:
            actions = step.actions.reshape(len(step.actions), -1)
            buffer.add(step.observations, actions, step.rewards, step.starts, step.values, step.log_probs)

    @torch.no_grad()
    def settle(self) -> None:
        """Work out all that the steps so far need of the policy, which may be another one from now on."""
        with self._acted.restored():
            self._evaluate()
            self._bootstrap()
        self._settled = len(self._steps)

    def _evaluate(self) -> None:
        """Work out the values and log-probabilities that nobody has read yet."""
        waiting = [step for step in self._steps[self._settled :] if isinstance(step.values, Deferred)]
        for steps in self._parts(waiting):
            observations = joined([step.observations for step in steps])
            actions = np.concatenate([step.actions for step in steps])
            if isinstance(self._policy.action_space, spaces.Box):  # a distribution's are flat
                actions = actions.reshape(len(actions), -1)
            known = [step.known for step in steps if step.known is not None]
            device = self._policy.device
            assert self._actor is not None  # it deferred them
            values, log_probs = self._actor.evaluate(
                obs_as_tensor(observations, device),
                torch.as_tensor(actions, device=device),
                torch.cat(known) if known else None,
            )
            n_envs = len(steps[0].actions)
            for step, value, log_prob in zip(
                steps, values.split(n_envs), log_probs.split(n_envs), strict=True
            ):
                assert isinstance(step.values, Deferred) and isinstance(step.log_probs, Deferred)
                step.values, step.log_probs = step.values.resolve(value), step.log_probs.resolve(log_prob)

    def _bootstrap(self) -> None:
        """Add γ V(last observation) to the reward where an episode was cut short.

        It would have gone on, so that its last state keeps its value; a terminated one's is zero (Pardo et
        al. 2018, "Time limits in reinforcement learning").
        """
        cuts = [(step, i, last) for step in self._steps[self._settled :] for i, last in step.cut.items()]
        for start in range(0, len(cuts), STATES_AT_ONCE):
            part = cuts[start : start + STATES_AT_ONCE]
            observations, _ = self._policy.obs_to_tensor(stacked([last for _, _, last in part]))
            values = self._policy.predict_values(observations).flatten().tolist()
            for (step, i, _), value in zip(part, values, strict=True):
                step.rewards[i] += self._gamma * value

    @staticmethod
    def _parts(steps: list[Step]) -> Iterator[list[Step]]:
        if steps:
            length = max(STATES_AT_ONCE // len(steps[0].actions), 1)
            for start in range(0, len(steps), length):
                yield steps[start : start + length]


def copied(observations: Any) -> Any:
    """Return a copy of an array, or of a dictionary of them."""
    if isinstance(observations, dict):
        return {key: value.copy() for key, value in observations.items()}
    return observations.copy()


def joined(observations: list[Any]) -> Any:
    """Return batches of observations as one."""
    if isinstance(observations[0], dict):
        return {key: np.concatenate([part[key] for part in observations]) for key in observations[0]}
    return np.concatenate(observations)


def stacked(observations: list[Any]) -> Any:
    """Return single observations as a batch."""
    if isinstance(observations[0], dict):
        return {key: np.stack([part[key] for part in observations]) for key in observations[0]}
    return np.stack(observations)
