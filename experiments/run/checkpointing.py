"""Save checkpoints while an agent learns, and restore them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import safe_mean

from agents.ranks import Ranks
from envs.state.vec_env_checkpointer import VecEnvCheckpointer
from experiments.failure import notes_of
from experiments.run import agent_state
from experiments.run.checkpoint_schema import check_fits, check_optimizers
from experiments.run.checkpoints import Checkpoints
from experiments.run.generators import restore_generators, take_generators
from experiments.run.rank_state import ranks_of, take_part
from experiments.run.stop_signals import Stopped, StopSignals


class Checkpointing(BaseCallback):
    """Save a checkpoint every k updates, at the end, and when a signal requests a stop.

    A checkpoint is saved at the start of a rollout: then policy, critic and all averages are those of the
    same update, and nothing in the rollout buffer is needed any more.

    Args:
        checkpoints: the folder of the checkpoints; None if another rank writes them.
        take_rest: returns the content of a checkpoint except agent, environments and generators.
        every: k.
        signals: the signals that request a stop.
        evaluated: whether evaluations choose the best checkpoint, by `save_best`; otherwise, it is the one
            with the highest mean training return.
    """

    model: OnPolicyAlgorithm

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        *,
        take_rest: Callable[[], Mapping[str, Any]],
        every: int,
        signals: StopSignals,
        evaluated: bool = False,
    ):
        super().__init__()
        self._evaluated = evaluated
        self._checkpoints, self._take_rest = checkpoints, take_rest
        self._every, self._signals = every, signals
        self._envs = VecEnvCheckpointer()
        self._ranks = Ranks()
        self._resumed: Mapping[str, Any] | None = None
        self.updates = 0

    def _init_callback(self) -> None:
        self._ranks = ranks_of(self.model)

    def _on_rollout_start(self) -> None:
        self._restore_drawn()
        signal = max(self._ranks.gather(self._signals.number, "the signals"))
        if signal or self.updates % self._every == 0:
            self.save()
        if signal:
            raise Stopped(128 + signal)

    def _on_step(self) -> bool:
        self.stop_if_overdue()
        return True

    def stop_if_overdue(self) -> None:
        """Stop within a rollout, which resuming repeats; several ranks stop together at its end.

        Raises:
            Stopped: a stop was requested, a while ago.
        """
        if self._signals.overdue and not self._ranks.several:
            self._signals.check()

    def _on_rollout_end(self) -> None:
        self.updates += 1

    def _on_training_end(self) -> None:
        if self._resumed is not None:  # there were no steps left, so no rollout has started
            self._restore_drawn()
        elif getattr(self.model, "use_sde", False):
            # As the next rollout would, since a checkpoint restores the noise of a rollout that has started.
            self.model.policy.reset_noise(self.training_env.num_envs)
        self.save()

    def save(self) -> None:
        """Save a checkpoint now.

        Raises:
            NonFiniteError: the state holds NaN or infinity; nothing was saved.
            CheckpointWriteError: e.g. the disk is full; earlier checkpoints are intact.
        """
        content = self.take()
        if content is None or self._checkpoints is None:
            return
        episodes = [info["r"] for info in self.model.ep_info_buffer or ()]
        score = float(safe_mean(episodes)) if episodes and not self._evaluated else None
        self._checkpoints.save(content, step=self.num_timesteps, score=score)

    def save_best(self, content: dict[str, Any], score: float) -> None:
        """Save what `take` returned as the best checkpoint, if its score is the highest; errors as `save`."""
        assert self._checkpoints is not None
        self._checkpoints.save_best(content, score)

    def take(self) -> dict[str, Any] | None:
        """Return the content of a checkpoint; None on a rank that writes nothing.

        All ranks take together.
        """
        content = {
            "agent": agent_state.take_agent(self.model),
            "envs": self._envs.take(self.training_env),
            "updates": self.updates,
            "generators": take_generators(),
        }
        parts = self._ranks.gather(take_part(content), "the checkpoint")
        if self._checkpoints is None:
            return None
        content = {**self._take_rest(), **content}
        if self._ranks.several:
            content["ranks"] = parts[1:]
        return content

    def resume(self, content: Mapping[str, Any], logger: Logger, episodes_cut: int) -> None:
        """Restore the update counter and the log's pending row; call it after `restore`.

        The random number generators are restored later, at the start of the first rollout or at the end of
        training, since setting up training may draw from them.

        Args:
            content: the checkpoint's content.
            logger: the logger of the run.
            episodes_cut: the number that `restore` returned, which is logged.
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
    """Restore agent, environments and callbacks from a checkpoint; no file is changed.

    Returns:
        The number of episodes that were cut short, because their environments have no state that can be
        saved and have started new episodes.

    Raises:
        ValueError: the checkpoint does not fit the agent or the environments.
    """
    assert agent.env is not None
    try:
        check_fits(content, agent)
        observations = VecEnvCheckpointer().restore(agent.env, content["envs"])
        agent_state.restore_agent(agent, content["agent"])
        check_optimizers(agent)
        agent_state.restore_callbacks(callbacks, content["callbacks"])
        agent_state.restore_logged(Logger(None, []), content["agent"])  # a test, before a file is changed
    except Exception as error:  # an environment's own methods may raise any exception
        if notes := "; ".join(notes_of(error)):
            raise ValueError(
                f"the environments cannot be restored ({type(error).__name__}: {error!s:.1000}; {notes})"
            ) from error
        raise ValueError(
            "the checkpoint does not fit the agent and the environments that config.yaml describes, and no "
            f"option can change that; restore its settings: {error!s:.1000}"
        ) from error
    if observations is None:
        return 0
    agent._last_obs = observations
    agent._last_episode_starts = np.ones(agent.n_envs, dtype=bool)
    return agent.n_envs
