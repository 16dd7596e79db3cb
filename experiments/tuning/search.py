"""A search for an algorithm's settings on a task, by Optuna.

What is optimised is the training return at the end: the mean of the last 100 training episodes when exactly
`n_timesteps` steps are done (of all, where fewer ended), raw, not normalised, averaged over the tuning seeds.
These are never seeds of reported runs. Trial 0 is the configuration that the search begins with, trained to
the end, so that the best found is never worse than it on these seeds. The best of many noisy numbers is
optimistic all the same: what is reported is trained again, with other seeds.

The sampler is a tree-structured Parzen estimator (Bergstra et al. 2011); a trial is pruned where its best
return so far is below the median of the others at the same step. A study lies on disk and may be ended at any
time. With one job, a search that was ended and goes on draws what it would have drawn otherwise.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.algorithms import build
from experiments.progress import progress_bar
from experiments.tuning.result import TuningResult
from experiments.tuning.study import (
    DEFAULT,
    FAILURE,
    STARTUP,
    Search,
    TrialState,
    counted,
    importances,
    lock,
    opened,
    optuna,
    reclaim,
    value,
)
from experiments.tuning.training_return import REPORTS, Reporter, TrainingReturn


def tune(search: Search, trials: int, jobs: int = 1) -> TuningResult:
    """Search until the study has so many trials, and write what was found.

    Complete, pruned and failed trials count; one that was interrupted is repeated.

    Args:
        search: what is searched, and where the study lies.
        trials: of the study in all, those of earlier calls included.
        jobs: processes, each with one trial at a time.

    Returns:
        What was found, on disk already; `str` of it is a summary.

    Raises:
        ValueError: an argument makes no sense, the study is of another search, or no trial has a value.
        StudyInUseError: another command is searching in this folder.
        ChildProcessError: a worker died; repeat the call to go on.
        KeyboardInterrupt: with what was found so far on disk; repeat the call to go on.
    """
    if min(trials, jobs) < 1:
        raise ValueError(f"expected at least 1 trial and 1 job, got {trials} and {jobs}")
    search.check()
    search.folder.mkdir(parents=True, exist_ok=True)
    with lock(search.folder) as let_workers_in, opened(search) as study:
        reclaim(study, search)  # of a command that was killed
        let_workers_in()
        try:
            make_trials(search, study, trials, jobs)
        finally:
            reclaim(study, search)
            result = TuningResult(search, study.get_trials(), importances(study))
            result.write()
    if result.best is None:
        reasons = "; ".join(reason for reason, _ in result.failures.most_common(3))
        raise ValueError(f"no trial of {trials} has a value: {reasons}")
    return result


def make_trials(search: Search, study: optuna.Study, trials: int, jobs: int) -> None:
    """Make the trials that are missing, and show how far the search is."""
    missing = trials - len(counted(study))
    with contextlib.closing(progress_bar(trials, f"tuning {search.algo} on {search.env_id}", "trial")) as bar:
        bar.unit_scale = False  # 7 trials are not 7.00
        show(bar, study)
        if jobs > 1 and missing > 1:
            make_in_workers(search, study, missing, min(jobs, missing), bar)
        else:
            for _ in range(missing):
                make_trial(search, study)
                show(bar, study)


def show(bar: tqdm, study: optuna.Study) -> None:
    """Bring the progress bar up to date."""
    trials = counted(study)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if complete:
        default = next((f"{value(t):.1f}" for t in complete if t.user_attrs.get(DEFAULT)), "?")
        best = max(map(value, complete))
        bar.set_postfix({"best": f"{best:.1f}", "default": default}, refresh=False)
    bar.update(min(len(trials), bar.total) - bar.n)


def make_trial(search: Search, study: optuna.Study, worker: int = 0) -> None:
    """Make one trial, and write down how it ended."""
    # A seed of its own for every trial: a search that goes on must not draw its first samples again.
    (seed,) = np.random.SeedSequence((len(counted(study)), worker)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed), n_startup_trials=STARTUP)
    trial = study.ask()
    try:
        mean = training_return(search, trial)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except ValueError as error:
        trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, mean)


def training_return(search: Search, trial: optuna.Trial) -> float:
    """Train with a trial's settings on every seed, and return the mean training return.

    Raises:
        ValueError: training fails.
        optuna.TrialPruned: others are ahead.
    """
    configuration = search.space.suggest(trial)
    returns: list[float] = []
    for seed in search.seeds:
        env = search.make_env(configuration, seed)
        try:
            agent = build(replace(configuration, seed=seed, device=search.device), env)
            first, last = len(returns) * REPORTS, len(search.seeds) * REPORTS
            callback = TrainingReturn(configuration.n_timesteps, Reporter(trial, first, last))
            agent.learn(configuration.n_timesteps, callback)
        finally:
            env.close()
        if not np.isfinite(callback.mean):
            raise ValueError(
                f"no training return after {configuration.n_timesteps} steps: no episode ended, "
                "or rewards are not finite; raise --steps or look at the environment"
            )
        returns.append(callback.mean)
    return float(np.mean(returns))


def make_in_workers(search: Search, study: optuna.Study, missing: int, jobs: int, bar: tqdm) -> None:
    """Make trials in processes of their own.

    Raises:
        ChildProcessError: one of them died; the others made their trials.
    """
    # A process that is started afresh has no thread, lock or CUDA context of this one.
    context = multiprocessing.get_context("spawn")
    remaining = context.Value("l", missing)
    workers = [context.Process(target=work, args=(search, remaining, n)) for n in range(jobs)]
    try:
        for worker in workers:
            worker.start()
        while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
            wait(alive, timeout=1.0)
            show(bar, study)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes:
        raise ChildProcessError(
            f"{len(codes)} of {jobs} workers died, the first with exit code {codes[0]}; "
            "repeat the command to go on"
        )


def work(search: Search, remaining: Any, number: int) -> None:
    """Make trials until none remains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends its workers
    torch.set_num_threads(1)
    with lock(search.folder, shared=True), opened(search) as study:
        for _ in claims(remaining):
            make_trial(search, study, number)


def claims(remaining: Any) -> Iterator[None]:
    """Count a shared number down to 0, as long as the command lives."""
    command = multiprocessing.parent_process()
    while command is None or command.is_alive():
        with remaining.get_lock():
            if remaining.value == 0:
                return
            remaining.value -= 1
        yield
