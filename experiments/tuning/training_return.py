"""Compute the objective of a search: the mean return of the last training episodes."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from experiments.settings.configuration import build
from experiments.settings.wrapping import make_callbacks
from experiments.tuning.study import DEFAULT, Search, optuna

EPISODES = 100  # number of last episodes in the mean
REPORTS = 10  # intermediate values per run


def report_or_prune(trial: optuna.Trial, first: int, last: int, value: float, step: int) -> None:
    """Report an intermediate value of one run to the pruner.

    Args:
        trial: the trial.
        first: step of the trial at which the run starts.
        last: last step of the trial, at which pruning would save nothing.
        value: the intermediate value.
        step: step of the run.

    Raises:
        optuna.TrialPruned: other trials are better.
    """
    trial.report(value, first + step)
    spared = first + step >= last or trial.user_attrs.get(DEFAULT)
    if not spared and trial.should_prune():
        raise optuna.TrialPruned


class TrainingReturn(BaseCallback):
    """Track the mean unnormalised return of the last training episodes, and stop when the budget is used.

    SB3 itself trains to the end of a rollout, so settings with longer rollouts would get more steps.

    Args:
        n_timesteps: the budget, in steps of all environments.
        report: called with the mean and the used part of the budget, in units of 1 / `REPORTS`.
    """

    def __init__(self, n_timesteps: int, report: Callable[[float, int], None]):
        super().__init__()
        self._n_timesteps = n_timesteps
        self._report = report
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._step = 0

    @property
    def mean(self) -> float:
        """The mean return; NaN if no episode has ended."""
        return float(np.mean(self._returns)) if self._returns else float("nan")

    def _on_step(self) -> bool:
        self._returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        step = min(self.num_timesteps * REPORTS // self._n_timesteps, REPORTS)
        if step > self._step and np.isfinite(self.mean):
            self._step = step
            self._report(self.mean, step)
        return self.num_timesteps < self._n_timesteps


def training_return(search: Search, trial: optuna.Trial) -> float:
    """Train with a trial's settings on every seed, and return the mean training return.

    Raises:
        ValueError: the settings are invalid, or there is no finite training return.
        optuna.TrialPruned: other trials are better.
    """
    configuration = search.space.suggest(trial)
    returns: list[float] = []
    for seed in search.seeds:
        env = search.make_env(configuration, seed)
        try:
            agent = build(replace(configuration, seed=seed, device=search.device), env)
            first, last = len(returns) * REPORTS, len(search.seeds) * REPORTS
            callback = TrainingReturn(configuration.n_timesteps, partial(report_or_prune, trial, first, last))
            agent.learn(configuration.n_timesteps, [callback, *make_callbacks(configuration)])
        finally:
            env.close()
        if not np.isfinite(callback.mean):
            raise ValueError(
                f"no training return after {configuration.n_timesteps} steps: no episode ended, "
                "or rewards are not finite; raise --steps or check the environment"
            )
        returns.append(callback.mean)
    return float(np.mean(returns))
