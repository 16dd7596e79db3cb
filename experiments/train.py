"""The command `npg train`: train and evaluate an agent, from the start or from a checkpoint."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from envs import choose_vec_env, make_vec_env
from envs.cores import usable_cores
from envs.single_env import environment_spec
from envs.user_modules import import_user_module
from experiments.algorithms import joint_target_kl, own_modules
from experiments.evaluation import protocol
from experiments.evaluation.seeded_episodes import EvaluationError
from experiments.failure import SETUP_ERRORS, describe_failure, raised_at, setup_errors
from experiments.grid_command import compare
from experiments.normalised import normalised
from experiments.run.allocation_limit import AllocationLimit
from experiments.run.learn import learn
from experiments.run.run_folder import RunFolder, folder_of_task
from experiments.run.stop_signals import INTERRUPTED, Stopped, StopSignals
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, resolve, whole
from experiments.settings.run_settings import RunSettings, differences
from experiments.summary import modules_of, print_next, print_run
from experiments.terminal import show


def main(arguments: Arguments) -> int:
    """Run `npg train` and return the exit code."""
    # Small networks gain little from more threads, and are much slower if other programs use the cores.
    torch.set_num_threads(1)
    try:
        arguments.check()
        for module in (*arguments.import_, *sorted(own_modules(*arguments.algo))):
            import_user_module(module)
        if arguments.resume is not None:
            return resume(arguments)
        for env_id in arguments.env:
            environment_spec(env_id)
        if arguments.tune is not None:
            return tune(arguments)
        if len(arguments.algo) * len(arguments.env) * arguments.seeds > 1:
            return compare(arguments)
        return run(arguments)
    except SETUP_ERRORS as error:
        show(f"error: {error}{raised_at(error)}", error=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def run(arguments: Arguments) -> int:
    """Make one run, and return the exit code.

    Raises:
        FileExistsError: the folder holds a finished run, or is in use.
        ValueError: a setting is invalid, or there is no CUDA device.
    """
    settings = resolve(arguments)
    folder = RunFolder.of(arguments.out, settings.env, settings.algo, settings.seed)
    folder.check_free()
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {settings.device} needs a CUDA device, and torch finds none; use --device cpu"
        )
    with setup_errors("this command line"):
        if settings.vec_env == "auto":
            choice = choose_vec_env(settings.env, settings.n_envs)
            show(f"vec_env: {choice}")
            settings = replace(settings, vec_env=choice.vec_env)
        made = make_env(settings)
    with closing(folder), closing(made) as env:
        with setup_errors("this command line"):
            agent = build(settings, env)
        settings = replace(settings, device=str(agent.device))
        if (aside := folder.create()) is not None:
            show(f"moved an unfinished run to {aside}")
        document = describe(settings, agent)
        folder.write_config(document)
        code = execute(settings, document, folder, agent, imports=arguments.import_)
    if code == 0:
        print_next(arguments, settings, folder)
    return code


def resume(arguments: Arguments) -> int:
    """Resume a run from its newest valid checkpoint, and return the exit code.

    Raises:
        RunInUseError: another command is writing into the folder.
        ValueError: another option is given, there is no valid checkpoint, --steps is not larger than the
            steps made, or settings or versions have changed.
    """
    assert arguments.resume is not None
    given = replace(arguments, resume=None, allow_changes=False, steps=None, env=Arguments.env, import_=())
    if given != Arguments():
        raise ValueError(
            "--resume takes its settings from the run; give it only --steps, --import and --allow-changes"
        )
    folder = RunFolder(arguments.resume)
    settings = folder.read_settings()
    unnamed = own_modules(settings.env) - {*arguments.import_}
    if unnamed and arguments.env != (settings.env,):
        raise ValueError(
            f"{folder.config} names a module that would be imported, {settings.env}; if you trust it, "
            f"add --import {' '.join(unnamed)}, or --env {settings.env}"
        )
    if folder.finished and (arguments.steps is None or arguments.steps <= settings.n_timesteps):
        show(f"{folder.path} is finished, with {settings.n_timesteps} steps; add --steps to train for more")
        return 0
    environment_spec(settings.env)
    if arguments.steps is not None:
        settings = replace(settings, n_timesteps=whole(arguments.steps))
    with closing(folder):
        folder.claim()
        path, content = folder.read_checkpoint()
        moving = content["agent"]["moving"]
        step = moving["num_timesteps"]
        if len(moving["_last_episode_starts"]) != settings.n_envs:  # before environments are created
            raise ValueError(
                f"{path} is of {len(moving['_last_episode_starts'])} environments, and {folder.config} has "
                f"n_envs: {settings.n_envs}; restore it"
            )
        if step >= settings.n_timesteps and arguments.steps is not None:
            raise ValueError(
                f"{folder.path} has made {step} steps; give --steps a larger number to resume it"
            )
        with setup_errors(folder.config):
            made = make_env(settings, step)
        with closing(made) as env:
            with (
                setup_errors(folder.config),
                AllocationLimit(content["agent"]["parameters"]["policy"].values()),
            ):
                agent = build(settings, env)
            document = describe(settings, agent)
            changes = differences(content["run"], document)
            # --steps is in config.yaml at once, and in checkpoints from the next one on.
            recorded = content["run"].get("n_timesteps")
            extended = isinstance(recorded, int) and recorded < settings.n_timesteps
            if extended or arguments.steps is not None:
                changes = [change for change in changes if not change.startswith("n_timesteps:")]
            if changes and not arguments.allow_changes:
                raise ValueError(
                    f"{path} was made with other settings or versions, and resuming would not give the same "
                    f"run: {'; '.join(changes)}. Restore them, or add --allow-changes"
                )
            for change in changes:
                show(f"changed: {change}")
            show(f"resuming from {path}")
            return execute(settings, document, folder, agent, content, arguments.import_)


def describe(settings: RunSettings, agent: OnPolicyAlgorithm) -> dict[str, Any]:
    """Return the settings of a run as config.yaml and checkpoints store them."""
    joint = joint_target_kl(settings.algo, settings.hyperparameters, agent.action_space)
    return settings.document(**({} if joint is None else {"target_kl_joint": joint}))


def execute(
    settings: RunSettings,
    document: dict[str, Any],
    folder: RunFolder,
    agent: OnPolicyAlgorithm,
    content: dict[str, Any] | None = None,
    imports: Sequence[str] = (),
) -> int:
    """Train and evaluate, from the start or from a checkpoint's content; return the exit code."""
    result: dict[str, Any] = {}
    with StopSignals() as signals:
        code, seconds = learn(agent, settings, document, folder, signals, content)
        if code == 0:
            try:
                result = evaluate(settings, folder, agent.num_timesteps, signals)
            except Stopped as stopped:
                code = stopped.code
                show(f"\n{stopped}; the run lacks its evaluation, and can be resumed")
            except EvaluationError as error:
                code = 1
                show(f"error: {folder.path} is not finished: in its evaluation, {error}", error=True)
            except (Exception, SystemExit) as error:
                code = 1
                failure = describe_failure(error, "in the evaluation")
                show(f"{failure}\n{folder.evaluation} could not be written", error=True)
    print_run(settings, folder, agent.num_timesteps, seconds, result)
    if code > 128:
        show(f"  resume   {Arguments(resume=folder.path, import_=modules_of(settings, imports))}")
    return code


def evaluate(settings: RunSettings, folder: RunFolder, steps: int, signals: StopSignals) -> dict[str, Any]:
    """Evaluate, write evaluation.json, which marks the run as finished; return the result or {}."""
    episodes, result = settings.evaluation_episodes, {}
    if episodes:
        spec = environment_spec(settings.env)
        checkpoint = folder.read_checkpoint()
        result = protocol.evaluate(checkpoint, settings, spec, episodes=episodes, after_step=signals.check)
    folder.write_evaluation(result or {"steps": steps, "returns": []})
    return result


def make_env(settings: RunSettings, step: int = 0) -> VecEnv:
    """Create the training environments; `step` is added to the seed, so that resuming repeats no episode."""
    env = make_vec_env(
        settings.env,
        settings.n_envs,
        seed=settings.seed + step,
        vec_env=settings.vec_env,
        worker_timeout=settings.worker_timeout or None,
    )
    return normalised(env, settings.hyperparameters["gamma"]) if settings.normalize else env


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
