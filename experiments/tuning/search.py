"""Search for an algorithm's hyper-parameters on a task, with Optuna.

The objective is the final training return: the mean unnormalised return of the last 100 training episodes (or
of all, if there are fewer) after exactly `n_timesteps` steps, averaged over the tuning seeds. No reported run
may use these seeds. Trial 0 has the initial settings and is never pruned, so the best settings found are
never worse than these on the tuning seeds. The best of many noisy numbers is optimistic all the same, so
train again with other seeds before reporting.

The sampler is a tree-structured Parzen estimator (Bergstra et al. 2011). A trial is pruned if its best return
so far is below the median of the other trials at the same step. The study is stored on disk, and a search may
be interrupted at any time. With one job, a resumed search samples what it would have sampled without the
interruption.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import closing

import numpy as np
import torch
from tqdm import tqdm

from envs.user_modules import import_user_module
from experiments.progress import progress_bar
from experiments.run.run_folder import RunFolder
from experiments.tuning.result import TuningResult
from experiments.tuning.study import (
    FAILURE,
    STARTUP,
    Search,
    TrialState,
    finished_trials,
    importances,
    open_study,
    optuna,
    requeue_stale,
    return_of,
)
from experiments.tuning.training_return import training_return


def tune(search: Search, trials: int, jobs: int = 1, executor: Executor | None = None) -> TuningResult:
    """Search until the study has `trials` trials, and write the result.

    Complete, pruned and failed trials count; interrupted ones are repeated.

    Args:
        search: the search space, and the folder of the study.
        trials: total number of trials, including those of earlier calls.
        jobs: largest number of trials at a time.
        executor: runs the trials on other machines; by default, processes of this machine do.

    Returns:
        The result, which has been written to disk; `str` of it is a summary.

    Raises:
        ValueError: an argument is invalid, the study belongs to another search, or no trial has a value.
        RunInUseError: another command is searching in this folder.
        ChildProcessError: a worker process died; repeat the call to resume.
        KeyboardInterrupt: the results so far are on disk; repeat the call to resume.
    """
    if min(trials, jobs) < 1:
        raise ValueError(f"expected at least 1 trial and 1 job, got {trials} and {jobs}")
    with closing(RunFolder(search.folder)) as folder:
        folder.claim()
        study = open_study(search, shared=executor is not None)
        requeue_stale(study)  # if an earlier command was killed
        try:
            run_trials(search, study, trials, jobs, executor)
        finally:
            requeue_stale(study)
            result = TuningResult(search, study.get_trials(), importances(study))
            result.write()
    if result.best is None:
        reasons = "; ".join(reason for reason, _ in result.failures.most_common(3))
        raise ValueError(f"no trial of {trials} has a value: {reasons}")
    return result


def run_trials(
    search: Search, study: optuna.Study, trials: int, jobs: int, executor: Executor | None = None
) -> None:
    """Run the missing trials, and show the progress.

    Raises:
        ChildProcessError: a worker process died.
    """
    missing = trials - len(finished_trials(study))
    with closing(progress_bar(trials, f"tuning {search.algo} on {search.env_id}", "trial")) as bar:
        bar.unit_scale = False  # show 7 trials as 7, not as 7.00
        update_bar(bar, study)
        if executor is None and min(jobs, missing) > 1:
            # A spawned process inherits no thread, lock or CUDA context.
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(min(jobs, missing), context, start_worker)
        if executor is not None:
            run_in_workers(search, study, missing, jobs, executor, lambda: update_bar(bar, study))
            return
        for _ in range(missing):
            run_trial(search, ask(study))
            update_bar(bar, study)


def update_bar(bar: tqdm, study: optuna.Study) -> None:
    """Show the number of finished trials and the best return."""
    trials = finished_trials(study)
    values = [return_of(trial) for trial in trials if trial.state == TrialState.COMPLETE]
    if values:
        bar.set_postfix({"best": f"{max(values):.1f}"}, refresh=False)
    bar.update(min(len(trials), bar.total) - bar.n)


def ask(study: optuna.Study, number: int = 0) -> optuna.Trial:
    """Return the next trial of a study.

    Only the command calls this: with SQLite, two processes could take the same trial from Optuna's queue.

    Args:
        study: the study.
        number: a number that differs between trials that run at the same time; part of the sampler's seed.
    """
    # Each trial has its own seed, so that a resumed search does not repeat its first samples.
    (seed,) = np.random.SeedSequence((len(finished_trials(study)), number)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed), n_startup_trials=STARTUP)
    return study.ask()


def run_trial(search: Search, trial: optuna.Trial) -> None:
    """Run one trial, and record its outcome; if the trial is finished, do nothing.

    A cluster repeats this if a node died. The trial then keeps the settings that it had there.
    """
    study = trial.study
    if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
        return
    try:
        study.tell(trial, training_return(search, trial))
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except ValueError as error:
        trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)


def run_in_workers(
    search: Search,
    study: optuna.Study,
    missing: int,
    jobs: int,
    executor: Executor,
    after_trial: Callable[[], None],
) -> None:
    """Run trials in other processes.

    Args:
        search: the search.
        study: the study of the search.
        missing: number of trials to run.
        jobs: largest number of trials at a time.
        executor: runs the trials; it is shut down at the end.
        after_trial: called after each trial.

    Raises:
        ChildProcessError: a worker process died.
    """
    running: set[Future] = set()
    started = 0
    with executor:
        try:
            while running or started < missing:
                while started < missing and len(running) < jobs:
                    running.add(executor.submit(work, search, ask(study, started)))
                    started += 1
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                    after_trial()
        except BaseException as error:
            for worker in multiprocessing.active_children():
                worker.terminate()
            executor.shutdown(cancel_futures=True)
            if isinstance(error, BrokenExecutor):
                raise ChildProcessError(f"{error}; repeat the command to resume") from None
            raise


def start_worker() -> None:
    """Prepare a worker process: ignore Ctrl-C, which the command handles, and exit with the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """End this process when its parent process ends for any reason."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def work(search: Search, trial: optuna.Trial) -> None:
    """Run one trial in a worker process."""
    torch.set_num_threads(1)
    for module in search.modules:
        import_user_module(module)
    run_trial(search, trial)
