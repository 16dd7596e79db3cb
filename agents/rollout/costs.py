"""The costs of one rollout: read from the infos of its steps, summed per episode, turned into advantages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.ranks import Ranks
from agents.rollout.finite import NonFiniteError, name_of
from agents.rollout.gae import generalised_advantages
from agents.rollout.infos import Info, is_truncated, last_observations
from agents.rollout.trajectories import STATES_AT_ONCE, last_values
from npg.states import each, select


class CostError(ValueError):
    """An environment did not report its costs as it should."""


def costs_of(info: Info, count: int) -> np.ndarray | None:
    """Return the costs of a step, (count,): info["costs"], or info["cost"] if there is one; None if missing.

    Raises:
        CostError: they are not numbers, or their number is another one.
    """
    value = info.get("costs")
    if value is None and count == 1:
        value = info.get("cost")
    if value is None:
        return None
    try:
        costs = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise CostError(f"its costs are no numbers: {value!r:.100}") from None
    if len(costs) != count:
        raise CostError(f"it reported {len(costs)} costs, and cost_limit has {count} limits")
    return costs


@dataclass(frozen=True, eq=False)
class CostBatch:
    """The costs' part of a batch of N transitions with m costs, in the order of `Batch.from_buffer`.

    Attributes:
        advantages: (N, m), in units of the cost.
        returns: targets of the cost critics, (N, m).
        old_values: their estimates during the rollout, (N, m).
    """

    advantages: Tensor
    returns: Tensor
    old_values: Tensor


class EpisodeCosts:
    """Sums of the costs of the current episodes, and the mean sum of the latest complete ones.

    Args:
        n_envs: the number of environments of all ranks, n.
        count: the number of costs, m.

    Attributes:
        sums: of the current episodes so far, (n, m).
        lengths: their numbers of steps so far, (n,).
        mean: mean sum of the episodes that ended in the latest rollout in which one ended, (m,).
        standard_error: of `mean` as an estimate of the expected sum, (m,); 0 with fewer than two episodes.
        mean_length: their mean number of steps.
        ended: number of episodes that have ended, over all rollouts.
    """

    def __init__(self, n_envs: int, count: int):
        self.sums, self.lengths = np.zeros((n_envs, count)), np.zeros(n_envs)
        self.mean, self.standard_error = np.zeros(count), np.zeros(count)
        self.mean_length, self.ended = 0.0, 0

    def state(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {name: np.copy(v) if isinstance(v, np.ndarray) else v for name, v in vars(self).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        vars(self).update({name: state[name] for name in vars(self)})

    def finish_rollout(self, ended: Sequence[tuple[np.ndarray, float]], ranks: Ranks, own: slice) -> None:
        """Update the means from the episodes, (sum of costs (m,), length) each, that ended in a rollout.

        Before the first episode has ended, the current ones' costs so far are used, a lower bound if costs
        are not negative.

        Args:
            ended: the episodes of this rank.
            ranks: all ranks, which share their episodes.
            own: this rank's environments.
        """
        parts = ranks.gather((list(ended), self.sums[own], self.lengths[own]), "the episodes' costs")
        self.sums = np.concatenate([sums for _, sums, _ in parts])
        self.lengths = np.concatenate([lengths for _, _, lengths in parts])
        episodes = [episode for found, _, _ in parts for episode in found]
        self.ended += len(episodes)
        if episodes:
            sums = np.array([costs for costs, _ in episodes])
            self.mean = sums.mean(axis=0)
            self.standard_error = sums.std(axis=0, ddof=min(len(sums) - 1, 1)) / np.sqrt(len(sums))
            self.mean_length = float(np.mean([length for _, length in episodes]))
        elif not self.ended:
            self.mean, self.mean_length = self.sums.mean(axis=0), float(self.lengths.mean())


class CostRecorder(BaseCallback):
    """Record the costs of a rollout's steps, as a callback of the agent.

    Args:
        episodes: the sums to update.
        own: this rank's environments among those of `episodes`.
        read: returns the costs (m,) in an info, or None if there are none.

    Attributes:
        costs: one array (n_envs, m) per step.
        ended: sum of the costs and length of each episode that ended.
        truncated: step, environment and last observation of each episode that was truncated.
    """

    def __init__(self, episodes: EpisodeCosts, own: slice, read: Callable[[Info], np.ndarray | None]):
        super().__init__()
        self._episodes, self.own, self._costs_of = episodes, own, read
        self.costs: list[np.ndarray] = []
        self.ended: list[tuple[np.ndarray, float]] = []
        self.truncated: list[tuple[int, int, Any]] = []

    def _on_rollout_start(self) -> None:
        self.costs, self.ended, self.truncated = [], [], []
        starts = np.asarray(self.model._last_episode_starts, dtype=bool)
        self._episodes.sums[self.own][starts] = 0
        self._episodes.lengths[self.own][starts] = 0

    def _on_step(self) -> bool:
        infos, dones = self.locals["infos"], self.locals["dones"]
        env = self.training_env
        costs = self._read(env, infos)
        sums, lengths = self._episodes.sums[self.own], self._episodes.lengths[self.own]
        sums += costs
        lengths += 1
        for i in np.flatnonzero(dones).tolist():
            self.ended.append((sums[i].copy(), float(lengths[i])))
            sums[i] = lengths[i] = 0
        last = last_observations(dones, infos, env.observation_space)
        self.truncated += [(len(self.costs), i, seen) for i, seen in last.items() if is_truncated(infos[i])]
        self.costs.append(costs)
        return True

    def _read(self, env: VecEnv, infos: Sequence[Info]) -> np.ndarray:
        """Return the costs of a step of every environment, (n_envs, m).

        Raises:
            CostError: a cost is missing; the message names the environment and the step.
            NonFiniteError: a cost is not finite; likewise.
        """
        count = self._episodes.sums.shape[1]
        rows = []
        for i, info in enumerate(infos):
            where = f"(environment {i} of {env.num_envs}) at step {self.model.num_timesteps}"
            try:
                row = self._costs_of(info)
            except CostError as error:
                raise CostError(f"{name_of(env, i)} {where}: {error}") from None
            if row is None:
                key = "info['cost']" if count == 1 else f"info['costs'] with {count} numbers"
                raise CostError(
                    f"{name_of(env, i)} {where} reported no cost: step() must return {key} at every step, "
                    "since cost_limit is a limit on it"
                )
            if not np.isfinite(row).all():
                raise NonFiniteError(
                    f"{name_of(env, i)} {where} met a non-finite cost: {row.tolist()}. No parameter has "
                    "changed since the last update; check the environment."
                )
            rows.append(row)
        return np.stack(rows)

    @torch.no_grad()
    def batch(
        self,
        critics: Sequence[ActorCriticPolicy],
        observations: Any,
        starts: np.ndarray,
        last_observations: Any,
        dones: np.ndarray,
        gamma: float,
        gae_lambda: float,
    ) -> CostBatch:
        """Return the advantages of the rollout's costs, and the critics' targets.

        Args:
            critics: one policy per cost, whose values estimate the sum of the cost to come.
            observations: of the T steps, (T, n_envs, ...), or a dictionary of them.
            starts: whether step t is the first of an episode, (T, n_envs).
            last_observations: after the last step, (n_envs, ...).
            dones: whether the last step ended an episode, (n_envs,).
            gamma: discount factor of the costs.
            gae_lambda: λ of their advantages.
        """
        costs = np.stack(self.costs)
        flat = each(lambda array: array.reshape(-1, *array.shape[2:]), observations)
        parts = []
        for i, critic in enumerate(critics):
            critic.set_training_mode(False)
            of_cost = costs[..., i].astype(np.float32)
            values = predict_all(critic, flat, of_cost.size).reshape(of_cost.shape)
            final = critic.predict_values(obs_as_tensor(last_observations, critic.device))
            bootstraps = last_values(critic, [last for _, _, last in self.truncated])
            for (t, env, _), value in zip(self.truncated, bootstraps, strict=True):
                of_cost[t, env] += gamma * value
            advantages = generalised_advantages(
                of_cost, values, starts, final.cpu().numpy().flatten(), dones, gamma, gae_lambda
            )
            # Environment by environment, as `Batch.from_buffer` reads the buffer.
            parts.append(
                [part.swapaxes(0, 1).reshape(-1) for part in (advantages, advantages + values, values)]
            )
        device = critics[0].device
        columns = (np.stack(column, axis=1) for column in zip(*parts, strict=True))
        return CostBatch(*(torch.as_tensor(column, device=device) for column in columns))


def predict_all(critic: ActorCriticPolicy, observations: Any, count: int) -> np.ndarray:
    """Return the values of `count` observations, in several batches."""
    values = [
        critic.predict_values(
            obs_as_tensor(select(observations, slice(k, k + STATES_AT_ONCE)), critic.device)
        )
        for k in range(0, count, STATES_AT_ONCE)
    ]
    return torch.cat(values).flatten().cpu().numpy()
