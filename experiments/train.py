"""The command `npg train`: one run, a grid of runs or a search."""

from contextlib import suppress
from dataclasses import replace

import torch
from stable_baselines3.common.vec_env import VecEnv

from agents.ranks import RankError, Ranks
from envs.cores import usable_cores
from envs.single_env import environment_spec
from envs.user_modules import import_user_module
from experiments.algorithms import own_modules
from experiments.failure import SETUP_ERRORS, raised_at
from experiments.grid_command import compare, continued, folder_of
from experiments.process_group import FirstRankError, on_first, process_group, restarted
from experiments.run.run_folder import folder_of_task
from experiments.run.stop_signals import INTERRUPTED
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings
from experiments.single_run import resume, run
from experiments.terminal import show
from experiments.training_envs import make_env


def main(arguments: Arguments) -> int:
    """Run `npg train` and return the exit code."""
    # Small networks gain little from more threads, and are much slower if other programs use the cores.
    torch.set_num_threads(1)
    try:
        with process_group(arguments.device, arguments.rank_timeout) as ranks:
            try:
                return dispatch(arguments, ranks)
            except (*SETUP_ERRORS, RankError) as error:
                rank = f"rank {ranks.rank}: " if ranks.rank else ""
                show(f"error: {rank}{error}{raised_at(error)}", error=True)
                return 2
    except FirstRankError:  # rank 0 shows it
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def dispatch(arguments: Arguments, ranks: Ranks) -> int:
    """Do what the arguments ask for, and return the exit code."""
    arguments.check()
    for module in (*arguments.import_, *sorted(own_modules(*arguments.algo))):
        import_user_module(module)
    several = len(arguments.algo) * len(arguments.env) * arguments.seeds > 1
    if ranks.several and (several or arguments.tune is not None):
        raise ValueError("torchrun makes one run on several ranks; give it one --algo, --env and seed")
    if ranks.several and restarted() and arguments.resume is None:
        left = on_first(ranks, lambda: after_restart(arguments), "what is left to do")
        if left is None:
            return 0
        arguments = left
    if arguments.resume is not None:
        return resume(arguments, ranks)
    for env_id in arguments.env:
        environment_spec(env_id)
    if arguments.tune is not None:
        return tune(arguments)
    if several:
        return compare(arguments)
    return run(arguments, ranks)


def after_restart(arguments: Arguments) -> Arguments | None:
    """Return what is left of a run of which a rank has died: None if rank 0 had finished it."""
    left = continued(arguments)
    return None if left.resume is None and folder_of(arguments).finished else left


def tune(arguments: Arguments) -> int:
    """Search for hyper-parameters of one algorithm on one task, and return the exit code."""
    if len(arguments.algo) * len(arguments.env) * arguments.seeds > 1:
        raise ValueError("--tune takes one --algo and one --env, and chooses its seeds itself")
    # Not imported at the top, since Optuna is an optional dependency.
    from experiments.tuning.search import tune as search
    from experiments.tuning.study import Search

    assert arguments.tune is not None
    settings = resolve(replace(arguments, vec_env="dummy"))
    full_timesteps = None
    with suppress(ValueError):  # the file lacks n_timesteps
        full_timesteps = resolve(replace(arguments, steps=None)).n_timesteps
    requested = Search(
        algo=settings.algo,
        env_id=settings.env,
        configuration=settings,
        make_env=make_tuning_env,
        folder=folder_of_task(arguments.out, settings.env, settings.algo) / "tuning",
        device=settings.device,
        full_timesteps=full_timesteps,
    )
    show(search(requested, trials=arguments.tune, jobs=arguments.jobs or len(usable_cores())))
    return 0


def make_tuning_env(settings: RunSettings, seed: int) -> VecEnv:
    """Create the environments of one trial."""
    return make_env(replace(settings, seed=seed))
