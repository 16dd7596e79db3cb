"""Show a progress bar with return, KL and steps per second."""

import sys

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from tqdm import tqdm


class Progress(BaseCallback):
    """Show the progress of `learn` on stderr.

    Args:
        total_timesteps: steps at which the bar is full.
        description: text before the bar.
    """

    def __init__(self, total_timesteps: int, description: str):
        super().__init__()
        self._total = total_timesteps
        self._description = description
        self._bar: tqdm | None = None

    def _on_training_start(self) -> None:
        self._bar = progress_bar(self._total, self._description, "step")
        self._bar.update(min(self.model.num_timesteps, self._total))  # more than 0 if resumed

    def _on_step(self) -> bool:
        assert self._bar is not None
        # The last rollout may exceed the total, which the bar cannot show.
        self._bar.update(min(self.num_timesteps, self._total) - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        assert self._bar is not None
        shown = {}
        if self.model.ep_info_buffer:
            shown["return"] = f"{safe_mean([episode['r'] for episode in self.model.ep_info_buffer]):.1f}"
        kl = self.logger.name_to_value.get("train/kl_divergence_loss")
        if kl is not None:
            shown["kl"] = f"{kl:.4f}"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Close the bar; this is safe at any time, also before training and after an interrupt."""
        if self._bar is not None:
            self._bar.close()


def progress_bar(total: int, description: str, unit: str, *, disable: bool = False) -> tqdm:
    """Return a bar on stderr, below any others; if stderr is not a terminal, it updates every ten seconds.

    Args:
        total: count at which the bar is full.
        description: text before the bar.
        unit: name of what is counted.
        disable: whether to show nothing.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=total >= 1000,  # else tqdm shows 80.0 of 100
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        leave=None,  # of several bars, only the first stays on the screen
        disable=disable,
    )
