"""The steps of one rollout in a tensor environment, and what is computed at its end."""

import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from agents.rollout.behaviour_weights import BehaviourWeights
from agents.rollout.deferred import Deferred
from agents.rollout.finite import named_sampling_errors
from agents.rollout.gae import scan_advantages
from agents.rollout.host_views import HostArray, HostInfos
from agents.rollout.tensor_actions import TensorActions
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from agents.rollout.tensor_finite import all_finite, raise_first
from agents.rollout.tensor_stepper import TensorStepper
from agents.rollout.trajectories import STATES_AT_ONCE
from npg import host

STATES_AT_ONCE_ON_A_GPU = 262_144


class TensorRollout:
    """A rollout in progress.

    Args:
        agent: the agent.
        env: a vector environment over tensor environments, with the attributes `tensor_env` and `statistics`.
        buffer: a buffer that was reset.
    """

    def __init__(self, agent: OnPolicyAlgorithm, env: Any, buffer: TensorRolloutBuffer):
        self._agent, self._env, self._buffer = agent, env, buffer
        if buffer.to_environment is None:  # once, since it copies bounds to the device
            squashed = agent.policy.squash_output
            buffer.to_environment = TensorActions(agent.action_space, squashed, agent.device)
        captured = getattr(agent, "captured", False)
        self._stepper = TensorStepper(agent.policy, env.tensor_env, buffer.to_environment, captured)
        if buffer.stepper is not None and buffer.stepper.suits(self._stepper):
            self._stepper = buffer.stepper
        buffer.stepper = self._stepper
        self._sampler = self._stepper.sampler
        self._behaviour = BehaviourWeights(agent.policy)
        share = getattr(agent, "share", None)  # of the environments on all ranks
        self._stepped = env.num_envs if share is None else share.total
        self._first_step = agent.num_timesteps
        self._settled = 0
        self._last: dict[str, Any] = {}
        if agent._last_obs is not buffer.shown:  # of a reset, or of a checkpoint
            buffer.begin(agent._last_obs, agent._last_episode_starts)
        buffer.tally.load(env.statistics.get_state())  # others may have stepped or reset the environments

    def step(self) -> None:
        """Make one step of every environment."""
        with named_sampling_errors(self._agent):
            self._last = self._stepper.step(self._buffer.states[self._buffer.pos])
        self._buffer.add_step(self._last)
        self._agent.num_timesteps += self._stepped

    def seen(self) -> dict[str, Any]:
        """Return what callbacks see of the last step."""
        buffer, t = self._buffer, self._buffer.pos - 1

        @cache
        def evaluated() -> tuple[Tensor, Tensor]:
            with torch.no_grad(), self._behaviour.restored():
                return self._evaluate(slice(t, t + 1))

        values: Any = buffer.values[t]
        log_probs: Any = buffer.log_probs[t]
        if self._sampler.sampler is not None:
            values, log_probs = Deferred(lambda: evaluated()[0]), Deferred(lambda: evaluated()[1])
        return {
            "self": self._agent,
            "env": self._env,
            "rollout_buffer": buffer,
            "obs_tensor": buffer.states[t],
            "new_obs": buffer.states[t + 1],
            "actions": buffer.actions[t],
            "clipped_actions": self._last["clipped_actions"],
            "rewards": buffer.rewards[t],
            "terminated": self._last["terminated"],
            "truncated": self._last["cut"],
            "dones": HostArray(buffer.starts[t + 1]),
            "infos": HostInfos(buffer, t, self._settled, self._make_episode),
            "values": values,
            "log_probs": log_probs,
        }

    def follow_policy(self) -> None:
        """If a callback has changed the policy, settle the steps so far with the weights that acted."""
        if self._behaviour.changed:
            self.settle()
            self._behaviour.keep()

    @torch.no_grad()
    def settle(self) -> None:
        """Compute what the steps since the last call need from the policy, and inform the host.

        This is the only place of a rollout that reads from the device: whether all numbers are finite, the
        number of truncated episodes, the last episodes, and the observations that come next.

        Raises:
            NonFiniteError: a number is not finite.
        """
        agent, buffer = self._agent, self._buffer
        rows = slice(self._settled, buffer.pos)
        if rows.start == rows.stop:
            return
        ends = slice(rows.start + 1, rows.stop + 1)
        episodes = buffer.tally.add(buffer.rewards[rows], buffer.starts[ends], agent._stats_window_size)
        flags = torch.stack([all_finite(buffer, rows), buffer.truncated[rows].sum()])
        numbers, observations, starts, returns, lengths = host.fetch(
            torch.cat([flags.to(episodes.dtype), episodes]),
            *(buffer.states[buffer.pos], buffer.starts[buffer.pos]),
            *(buffer.tally.returns, buffer.tally.lengths),
        )
        finite, truncations, *episodes_read = numbers.tolist()
        if not finite:
            buffer.shown = None
            raise_first(agent, self._env, buffer, rows, self._first_step, self._stepped)
        self._record(episodes_read)
        buffer.tally.on_host = {"returns": returns.numpy(), "lengths": lengths.numpy()}
        self._env.statistics.set_state(buffer.tally.on_host)
        agent._last_obs = buffer.shown = observations.numpy()
        agent._last_episode_starts = starts.numpy()
        with self._behaviour.restored():
            if self._sampler.sampler is not None:
                for part in self._parts(rows):
                    values, log_probs = self._evaluate(part)
                    buffer.values[part], buffer.log_probs[part] = values, log_probs
            self._bootstrap(rows, int(truncations))
        self._settled = rows.stop

    @torch.no_grad()
    def write_advantages(self) -> None:
        """Write advantages and the critic's targets; see `write_advantages` of agents.rollout.gae."""
        agent, buffer = self._agent, self._buffer
        last = agent.policy.predict_values(buffer.states[buffer.pos]).flatten()
        rollout = (buffer.rewards, buffer.values, buffer.starts, last, agent.gamma)
        buffer.advantages = targets = scan_advantages(*rollout, agent.gae_lambda)
        critic_lambda = getattr(agent, "critic_lambda", None)
        if critic_lambda is not None:
            targets = scan_advantages(*rollout, critic_lambda)
        buffer.returns = targets + buffer.values

    def _record(self, episodes: list[float]) -> None:
        """Give the agent the episodes that `EpisodeTally.add` returned."""
        count, most = int(episodes[0]), len(episodes) // 2
        pairs = list(zip(episodes[1 : most + 1], episodes[most + 1 :], strict=True))[most - count :]
        infos = [{"episode": self._make_episode(*pair)} for pair in pairs]
        self._agent._update_info_buffer(infos, np.ones(count, dtype=bool))

    def _make_episode(self, episode_return: float, length: float) -> dict[str, Any]:
        """Return an episode as `Monitor` does."""
        seconds = (time.time_ns() - self._agent.start_time) / 1e9
        return {"r": round(episode_return, 6), "l": int(length), "t": round(seconds, 6)}

    def _evaluate(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return values and log-probabilities of the steps in `rows`, (steps, N)."""
        buffer = self._buffer
        shape = buffer.values[rows].shape
        parameters = None if buffer.parameters is None else buffer.parameters[rows].flatten(0, 1)
        observations, actions = buffer.states[rows].flatten(0, 1), buffer.actions[rows].flatten(0, 1)
        values, log_probs = self._sampler.evaluate(observations, actions, parameters)
        return values.view(shape), log_probs.view(shape)

    def _bootstrap(self, rows: slice, count: int) -> None:
        """Add γ V(final observation) to the rewards of `count` truncated episodes, in one batch."""
        if not count:
            return
        buffer = self._buffer
        indices = true_positions(buffer.truncated[rows].flatten(), count)
        last = buffer.final_observations[rows].flatten(0, 1)[indices]
        rewards = buffer.rewards[rows].view(-1)
        values = self._agent.policy.predict_values(last).flatten()
        rewards.index_copy_(0, indices, rewards[indices] + self._agent.gamma * values)

    def _parts(self, rows: slice) -> Iterator[slice]:
        on_cpu = self._agent.device.type == "cpu"
        states = STATES_AT_ONCE if on_cpu else STATES_AT_ONCE_ON_A_GPU
        length = max(states // self._env.num_envs, 1)
        for start in range(rows.start, rows.stop, length):
            yield slice(start, min(start + length, rows.stop))


def true_positions(mask: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` True entries of a mask (n,), in order, without a host read."""
    rank = mask.cumsum(0) - 1
    positions = torch.arange(len(mask), device=mask.device)
    return positions.new_zeros(count + 1).scatter_(0, torch.where(mask, rank, count), positions)[:count]
