"""The return of the last training episodes, which a search maximises, as training goes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from experiments.tuning.study import DEFAULT, optuna

EPISODES = 100  # of the mean
REPORTS = 10  # intermediate values of a run


@dataclass
class Reporter:
    """Hands intermediate values of one run to the pruner.

    Args:
        trial: of the study.
        first: step of the trial at which the run begins.
        last: step at which the trial is over, and pruning saves nothing.
    """

    trial: optuna.Trial
    first: int
    last: int

    def __call__(self, value: float, step: int) -> None:
        """Report the value at a step of the run; ends the trial where it is hopeless."""
        self.trial.report(value, self.first + step)
        spared = self.first + step >= self.last or self.trial.user_attrs.get(DEFAULT)
        if not spared and self.trial.should_prune():
            raise optuna.TrialPruned


class TrainingReturn(BaseCallback):
    """Follows the mean raw return of the last training episodes, and ends training at the budget.

    SB3 trains to the end of a rollout: a longer one would be given more steps.

    Args:
        n_timesteps: the budget.
        report: takes the mean and how many `REPORTS`-ths of the budget are spent.
    """

    def __init__(self, n_timesteps: int, report: Callable[[float, int], None]):
        super().__init__()
        self._n_timesteps = n_timesteps
        self._report = report
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._step = 0

    @property
    def mean(self) -> float:
        """The mean, or NaN where no episode has ended."""
        return float(np.mean(self._returns)) if self._returns else float("nan")

    def _on_step(self) -> bool:
        self._returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        step = min(self.num_timesteps * REPORTS // self._n_timesteps, REPORTS)
        if step > self._step and np.isfinite(self.mean):
            self._step = step
            self._report(self.mean, step)
        return self.num_timesteps < self._n_timesteps
