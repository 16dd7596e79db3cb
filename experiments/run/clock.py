"""Log the training time."""

import time

from stable_baselines3.common.callbacks import BaseCallback


class Clock(BaseCallback):
    """Log the training time as `time/seconds`; SB3's `time/time_elapsed` has whole seconds only.

    TensorBoard has an axis of its own for time, and gets none of both.

    Args:
        elapsed: seconds of training before the run was resumed.
    """

    def __init__(self, elapsed: float = 0.0):
        super().__init__()
        self._elapsed = elapsed
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._elapsed + time.perf_counter() - self._start

    def leave_out(self, seconds: float) -> None:
        """Do not count the last seconds as training."""
        self._start += seconds

    def _on_training_start(self) -> None:
        self._start = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("time/seconds", round(self.seconds, 3), exclude="tensorboard")

    _on_training_end = _on_rollout_end
