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
from experiments.grid_command import compare, connected, continued, folder_of, on_nodes
from experiments.process_group import FirstRankError, on_first, process_group, restarted
from experiments.run.run_folder import folder_of_task
from experiments.run.stop_signals import INTERRUPTED
from experiments.settings.arguments import AUTO, Arguments
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
    for module in (*arguments.import_, *sorted(own_modules(*arguments.algo, arguments.track))):
        import_user_module(module)
    auto = arguments.resume == AUTO
    if auto:
        arguments = replace(arguments, resume=None)
    several = arguments.cluster is not None or len(arguments.algo) * len(arguments.env) * arguments.seeds > 1
    if ranks.several and (several or arguments.tune is not None):
        raise ValueError(
            "torchrun makes one run on several ranks; give it one --algo, --env and seed, and no --cluster"
        )
    one = not several and arguments.tune is None and arguments.resume is None
    if one and (auto or (ranks.several and restarted())):
        left = on_first(ranks, lambda: what_is_left(arguments), "what is left to do")
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


def what_is_left(arguments: Arguments) -> Arguments | None:
    """Return the arguments that start or resume a run; None if it is finished."""
    left, folder = continued(arguments), folder_of(arguments)
    if left.resume is not None or not folder.finished:
        return left
    show(f"{folder.path} is finished")
    return None


def tune(arguments: Arguments) -> int:
    """Search for hyper-parameters of one algorithm on one task, and return the exit code."""
    if len(arguments.algo) * len(arguments.env) * arguments.seeds > 1:
        raise ValueError("--tune takes one --algo and one --env, and chooses its seeds itself")
    trials = arguments.tune
    assert trials is not None
    # Not imported at the top, since Optuna is an optional dependency.
    from experiments.tuning.search import tune as search
    from experiments.tuning.study import Search

    if arguments.cluster is not None:
        arguments = on_nodes(arguments)
    if arguments.vec_env == "auto":
        arguments = replace(arguments, vec_env="dummy")  # trials share the cores
    settings = resolve(arguments)
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
        modules=(*arguments.import_, *sorted(settings.modules)),
    )
    if arguments.cluster is None:
        show(search(requested, trials, arguments.jobs or len(usable_cores())))
        return 0
    with connected(arguments) as cluster:
        show(search(requested, trials, arguments.jobs or cluster.cores, cluster.executor()))
    return 0


def make_tuning_env(settings: RunSettings, seed: int) -> VecEnv:
    """Create the environments of one trial."""
    return make_env(replace(settings, seed=seed))
