"""The objective of a search: the mean return of the last training episodes."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from experiments.settings.configuration import build
from experiments.tuning.study import DEFAULT, Search, optuna

EPISODES = 100  # of the mean
REPORTS = 10  # intermediate values per run


def report_or_prune(trial: optuna.Trial, first: int, last: int, value: float, step: int) -> None:
    """Report an intermediate value of one run to the pruner; raise TrialPruned if other trials are ahead.

    Args:
        trial: of the study.
        first: step of the trial at which the run begins.
        last: step at which the trial ends, so that pruning saves nothing.
        value: of the run.
        step: of the run.
    """
    trial.report(value, first + step)
    spared = first + step >= last or trial.user_attrs.get(DEFAULT)
    if not spared and trial.should_prune():
        raise optuna.TrialPruned


class TrainingReturn(BaseCallback):
    """Track the mean raw return of the last training episodes, and end training at exactly the budget.

    SB3 trains to the end of a rollout, so that longer rollouts would get more steps.

    Args:
        n_timesteps: the budget.
        report: takes the mean and how many `REPORTS`-ths of the budget are used.
    """

    def __init__(self, n_timesteps: int, report: Callable[[float, int], None]):
        super().__init__()
        self._n_timesteps = n_timesteps
        self._report = report
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._step = 0

    @property
    def mean(self) -> float:
        """The mean; NaN if no episode has ended."""
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
        ValueError: training fails.
        optuna.TrialPruned: other trials are ahead.
    """
    configuration = search.space.suggest(trial)
    returns: list[float] = []
    for seed in search.seeds:
        env = search.make_env(configuration, seed)
        try:
            # SB3's A2C writes into the policy_kwargs that it is given.
            agent = build(replace(configuration, seed=seed, device=search.device), env)
            first, last = len(returns) * REPORTS, len(search.seeds) * REPORTS
            callback = TrainingReturn(configuration.n_timesteps, partial(report_or_prune, trial, first, last))
            agent.learn(configuration.n_timesteps, callback)
        finally:
            env.close()
        if not np.isfinite(callback.mean):
            raise ValueError(
                f"no training return after {configuration.n_timesteps} steps: no episode ended, "
                "or rewards are not finite; raise --steps or check the environment"
            )
        returns.append(callback.mean)
    return float(np.mean(returns))
