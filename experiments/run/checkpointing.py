"""Checkpoints while an agent learns, and what they hold."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from experiments.run.agent_state import (
    restore_agent,
    restore_callbacks,
    restore_logged,
    restore_noise,
    take_agent,
    take_callbacks,
)
from experiments.run.checkpoints import Checkpoints
from experiments.run.clock import Clock
from experiments.run.generators import restore_generators, take_generators
from experiments.run.run_log import RunLog
from experiments.run.stop_signals import StopSignals


class EnvironmentStates(Protocol):
    """Takes and restores the states of vector environments, as `VecEnvCheckpointer` of envs does."""

    def take(self, vec_env: VecEnv, /) -> Any:
        """Return the state as plain data."""

    def restore(self, vec_env: VecEnv, state: Any, /) -> Any:
        """Put it back; return None, or the observations of new episodes where that could not be done."""


class Checkpointing(BaseCallback):
    """Saves a checkpoint at every k-th update, at the end, and when the run is asked to stop.

    An update is over when the next rollout begins, so that this is where it is done: policy, critic and all
    averages belong together there, and the rollout buffer holds nothing that is needed again.

    Args:
        checkpoints: where they go.
        run: the run's settings and versions, which a checkpoint carries.
        log: whose position it carries.
        clock: whose seconds it carries.
        every: k.
        signals: that ask the run to stop.
        envs: takes the environments' state.
        counted: callbacks whose counters it carries.
    """

    model: OnPolicyAlgorithm

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        run: Mapping[str, Any],
        log: RunLog,
        clock: Clock,
        every: int,
        signals: StopSignals,
        envs: EnvironmentStates,
        counted: list[BaseCallback],
    ):
        super().__init__()
        self._checkpoints = checkpoints
        self._run = dict(run)
        self._log = log
        self._clock = clock
        self._every = every
        self._signals = signals
        self._envs = envs
        self._counted = counted
        self.updates = 0
        self._resumed: Mapping[str, Any] | None = None

    def _on_rollout_start(self) -> None:
        self._restore_drawn()
        asked = self._signals.asked
        if asked or self.updates % self._every == 0:
            self.save()
        if asked:
            self._signals.stop()
        self.updates += 1

    def _on_step(self) -> bool:
        if self._signals.overdue:  # the last checkpoint has everything but this rollout
            self._signals.stop()
        return True

    def _on_training_end(self) -> None:
        self._restore_drawn()  # where there was nothing left to learn
        self.save()

    def save(self) -> None:
        """Save one now.

        Raises:
            NonFiniteError: the state holds a number that is none; nothing was saved.
            CheckpointWriteError: the disk is full, say; earlier checkpoints are whole.
        """
        content = {
            "run": self._run,
            "agent": take_agent(self.model),
            "envs": self._envs.take(self.training_env),
            "callbacks": take_callbacks(self._counted),
            "updates": self.updates,
            "log": self._log.position(),
            "seconds": self._clock.seconds,
            "generators": take_generators(),
        }
        episodes = [info["r"] for info in self.model.ep_info_buffer or ()]
        score = float(safe_mean(episodes)) if episodes else None
        self._checkpoints.save(content, step=self.num_timesteps, score=score)

    def resume(self, content: Mapping[str, Any], logger: Logger, episodes_cut: int) -> None:
        """Go on where a checkpoint has the counter and the row to be logged; `restore` comes before.

        The generators follow when the first rollout or the end of learning comes, since all until then may
        draw from them.
        """
        restore_logged(logger, content["agent"])
        if episodes_cut:
            logger.record("rollout/episodes_cut_by_resume", episodes_cut)
        self.updates = content["updates"]
        self._resumed = content

    def _restore_drawn(self) -> None:
        if self._resumed is not None:
            restore_noise(self.model, self._resumed["agent"])
            restore_generators(self._resumed["generators"])
            self._resumed = None


def restore(
    agent: OnPolicyAlgorithm,
    envs: EnvironmentStates,
    counted: list[BaseCallback],
    content: Mapping[str, Any],
) -> int:
    """Put agent, environments and callbacks to where a checkpoint has them; no file is touched.

    Returns:
        How many episodes were cut, where environments had no state to give and began new ones.

    Raises:
        ValueError: it is of an agent or of environments that are made otherwise.
    """
    assert agent.env is not None
    try:
        observations = envs.restore(agent.env, content["envs"])
        restore_agent(agent, content["agent"])
        restore_callbacks(counted, content["callbacks"])
        restore_logged(Logger(None, []), content["agent"])  # whether it can be, while no file is touched
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            "the checkpoint does not fit the agent and the environments that config.yaml describes, and no "
            f"flag can change that; put its settings back: {error}"
        ) from error
    if observations is None:
        return 0
    agent._last_obs = observations
    agent._last_episode_starts = np.ones(agent.n_envs, dtype=bool)
    return agent.n_envs
