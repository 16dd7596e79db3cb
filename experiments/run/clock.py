"""Training time as a column of the log."""

import time

from stable_baselines3.common.callbacks import BaseCallback


class Clock(BaseCallback):
    """Log `time/seconds` since training began, which SB3's `time/time_elapsed` truncates to whole seconds.

    Args:
        elapsed: seconds before a run was resumed.
    """

    def __init__(self, elapsed: float = 0.0):
        super().__init__()
        self._elapsed = elapsed
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Training seconds up to now."""
        return self._elapsed + time.perf_counter() - self._start

    def _on_training_start(self) -> None:
        self._start = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("time/seconds", round(self.seconds, 3))

    _on_training_end = _on_rollout_end
