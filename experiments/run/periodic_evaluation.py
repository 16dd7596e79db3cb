"""Evaluate the policy during training, and keep the best one."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from experiments.run.checkpointing import Checkpointing
from experiments.run.clock import Clock

# (content of a checkpoint, called after every step) -> mean return and length; None if there are none
Play = Callable[[Mapping[str, Any], Callable[[], None]], tuple[float, float] | None]


class PeriodicEvaluation(BaseCallback):
    """Evaluate every k updates, and keep the policy with the highest mean return as `best.ckpt`.

    An evaluation is logged in the row of the rollout that the same policy collects next, as SB3 logs an
    update; that of the last policy, in the last row.

    Training is not changed, bit for bit, and its time does not include evaluations. A resumed run repeats the
    evaluation of its checkpoint, with the same result. Of several ranks, the first one evaluates.

    Args:
        every: k.
        play: plays the episodes; it must not draw from the global random number generators.
        checkpointing: the callback before this one.
        clock: the clock of the training time; None on a rank that writes nothing.
    """

    model: OnPolicyAlgorithm

    def __init__(self, every: int, play: Play, checkpointing: Checkpointing, clock: Clock | None):
        super().__init__()
        self._every, self._play = every, play
        self._checkpointing, self._clock = checkpointing, clock

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._checkpointing.updates % self._every == 0:
            self._evaluate()

    _on_training_end = _on_rollout_start

    def _evaluate(self) -> None:
        begin = time.perf_counter_ns()
        content = self._checkpointing.take()
        if content is None or self._clock is None:
            return
        played = self._play(content, self._checkpointing.stop_if_overdue)
        if played is not None:
            mean_return, mean_length = played
            self.logger.record("eval/mean_reward", mean_return)
            self.logger.record("eval/mean_ep_length", mean_length)
            self._checkpointing.save_best(content, mean_return)
        spent = time.perf_counter_ns() - begin
        self._clock.leave_out(spent / 1e9)
        self.model.start_time += spent  # of SB3's time/fps
