"""Save checkpoints while an agent learns, and restore them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import safe_mean

from envs.state.vec_env_checkpointer import VecEnvCheckpointer
from experiments.run import agent_state
from experiments.run.checkpoint_schema import check_fits, check_optimizers
from experiments.run.checkpoints import Checkpoints
from experiments.run.generators import restore_generators, take_generators
from experiments.run.stop_signals import StopSignals


class Checkpointing(BaseCallback):
    """Save a checkpoint at every k-th update, at the end, and when a signal asks the run to stop.

    It is saved when the next rollout begins: the update is over, policy, critic and all averages belong
    together, and the rollout buffer holds nothing that is needed again.

    Args:
        checkpoints: the folder.
        take_rest: returns what a checkpoint holds of everything but agent, environments and generators.
        every: k.
        signals: that ask the run to stop.
    """

    model: OnPolicyAlgorithm

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        take_rest: Callable[[], Mapping[str, Any]],
        every: int,
        signals: StopSignals,
    ):
        super().__init__()
        self._checkpoints, self._take_rest = checkpoints, take_rest
        self._every, self._signals = every, signals
        self._envs = VecEnvCheckpointer()
        self._resumed: Mapping[str, Any] | None = None
        self.updates = 0

    def _on_rollout_start(self) -> None:
        self._restore_drawn()
        requested = self._signals.requested
        if requested or self.updates % self._every == 0:
            self.save()
        if requested:
            self._signals.check()
        self.updates += 1

    def _on_step(self) -> bool:
        if self._signals.overdue:  # the last checkpoint has everything but this rollout
            self._signals.check()
        return True

    def _on_training_end(self) -> None:
        self._restore_drawn()  # if there was nothing left to learn
        self.save()

    def save(self) -> None:
        """Save a checkpoint now.

        Raises:
            NonFiniteError: the state holds NaN or infinity; nothing was saved.
            CheckpointWriteError: e.g. the disk is full; earlier checkpoints are intact.
        """
        content = {
            **self._take_rest(),
            "agent": agent_state.take_agent(self.model),
            "envs": self._envs.take(self.training_env),
            "updates": self.updates,
            "generators": take_generators(),
        }
        episodes = [info["r"] for info in self.model.ep_info_buffer or ()]
        score = float(safe_mean(episodes)) if episodes else None
        self._checkpoints.save(content, step=self.num_timesteps, score=score)

    def resume(self, content: Mapping[str, Any], logger: Logger, episodes_cut: int) -> None:
        """Restore the counter and the row to be logged, after `restore`.

        The generators are restored when the first rollout or the end of learning comes, since everything
        until then may draw from them.
        """
        agent_state.restore_logged(logger, content["agent"])
        if episodes_cut:
            logger.record("rollout/episodes_cut_by_resume", episodes_cut)
        self.updates = content["updates"]
        self._resumed = content

    def _restore_drawn(self) -> None:
        if self._resumed is not None:
            agent_state.restore_noise(self.model, self._resumed["agent"])
            restore_generators(self._resumed["generators"])
            self._resumed = None


def restore(agent: OnPolicyAlgorithm, callbacks: Sequence[BaseCallback], content: Mapping[str, Any]) -> int:
    """Restore agent, environments and callbacks from a checkpoint; no file is touched.

    Returns:
        How many episodes were cut, if environments had no state to save and began new ones.

    Raises:
        ValueError: the checkpoint is of another agent or of other environments.
    """
    assert agent.env is not None
    try:
        check_fits(content, agent)
        observations = VecEnvCheckpointer().restore(agent.env, content["envs"])
        agent_state.restore_agent(agent, content["agent"])
        check_optimizers(agent)
        agent_state.restore_callbacks(callbacks, content["callbacks"])
        agent_state.restore_logged(Logger(None, []), content["agent"])  # fails before a file is touched
    except Exception as error:  # an environment's own methods may raise any
        raise ValueError(
            "the checkpoint does not fit the agent and the environments that config.yaml describes, and no "
            f"option can change that; restore its settings: {error!s:.1000}"
        ) from error
    if observations is None:
        return 0
    agent._last_obs = observations
    agent._last_episode_starts = np.ones(agent.n_envs, dtype=bool)
    return agent.n_envs
