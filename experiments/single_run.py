"""One run, on one or several ranks: train and evaluate, from the start or from a checkpoint."""

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.policy.allocation_limit import AllocationLimit
from agents.ranks import ONE, Ranks
from envs.single_env import environment_spec
from experiments.algorithms import joint_target_kl, own_modules
from experiments.evaluation import protocol
from experiments.evaluation.seeded_episodes import EvaluationError
from experiments.failure import describe_failure, setup_errors
from experiments.process_group import launcher, on_first
from experiments.run.learn import learn
from experiments.run.rank_state import number_of_environments, ranks_of
from experiments.run.run_folder import RunFolder
from experiments.run.stop_signals import Stopped, StopSignals
from experiments.run.tensorboard_log import write_final
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, resolve
from experiments.settings.run_settings import RunSettings, differences
from experiments.settings.yaml_numbers import whole
from experiments.summary import modules_of, print_next, print_run
from experiments.terminal import show
from experiments.tracking.tracker import Tracker, check_tracker
from experiments.training_envs import check_ranks, choose, environments_of, make_env


def run(arguments: Arguments, ranks: Ranks = ONE) -> int:
    """Make one run, and return the exit code.

    Raises:
        FileExistsError: the folder holds a finished run, or is in use.
        FirstRankError: rank 0 has raised one of the others.
        ValueError: a setting is invalid, or there is no CUDA device.
    """
    settings = on_first(ranks, lambda: prepare(arguments, ranks), "the settings")
    folder = RunFolder.of(arguments.out, settings.env, settings.algo, settings.seed)
    with setup_errors("this command line"):
        made = make_env(settings, ranks=ranks)
    with closing(folder), closing(made) as env:
        with setup_errors("this command line"):
            agent = build(settings, env)
        if getattr(agent, "masked", False):
            show("action masks: only allowed actions are chosen; --set use_masking=false ignores the masks")
        settings = replace(settings, device=str(agent.device))
        document = describe(settings, agent, ranks)

        def create() -> None:
            if (aside := folder.create()) is not None:
                show(f"moved an unfinished run to {aside}")
            folder.write_config(document)

        on_first(ranks, create, "the run folder")
        code = execute(settings, document, folder, agent, imports=arguments.import_)
    if code == 0 and ranks.rank == 0:
        print_next(arguments, settings, folder)
    return code


def prepare(arguments: Arguments, ranks: Ranks) -> RunSettings:
    """Return the settings of a new run, after checking what can be checked before anything is built.

    Raises:
        FileExistsError: the folder holds a finished run.
        ValueError: a setting is invalid, or there is no CUDA device.
    """
    settings = resolve(arguments)
    check_tracker(settings.track)
    RunFolder.of(arguments.out, settings.env, settings.algo, settings.seed).check_free()
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {settings.device} needs a CUDA device, and torch finds none; use --device cpu"
        )
    check_ranks(settings, ranks)
    with setup_errors("this command line"):
        return choose(settings, environments_of(settings, ranks)[0])


def resume(arguments: Arguments, ranks: Ranks = ONE) -> int:
    """Resume a run from its newest valid checkpoint, and return the exit code.

    Raises:
        FirstRankError: rank 0 has raised one of the others.
        RunInUseError: another command is writing into the folder.
        ValueError: another option is given, there is no valid checkpoint, --steps is not larger than the
            steps made, or settings or versions have changed.
    """
    assert arguments.resume is not None
    kept = {name: getattr(Arguments, name) for name in ("resume", "allow_changes", "steps", "env", "import_")}
    if replace(arguments, **kept, rank_timeout=Arguments.rank_timeout) != Arguments():
        raise ValueError(
            "--resume takes its settings from the run; give it only --steps, --import and --allow-changes"
        )
    with closing(RunFolder(arguments.resume)) as folder:
        reopened = on_first(ranks, lambda: reopen(arguments, folder, ranks), "the checkpoint")
        if reopened is None:
            return 0
        settings, path, content = reopened
        with setup_errors(folder.config):
            made = make_env(settings, content["agent"]["moving"]["num_timesteps"], ranks)
        with closing(made) as env:
            with (
                setup_errors(folder.config),
                AllocationLimit(content["agent"]["parameters"]["policy"].values()),
            ):
                agent = build(settings, env)
            document = describe(settings, agent, ranks)
            on_first(
                ranks,
                lambda: check_unchanged(arguments, settings, path, content["run"], document),
                "whether the settings have changed",
            )
            return execute(settings, document, folder, agent, content, arguments.import_)


def reopen(
    arguments: Arguments, folder: RunFolder, ranks: Ranks
) -> tuple[RunSettings, Path, dict[str, Any]] | None:
    """Lock a run folder, and return its settings and its newest checkpoint; None if the run is finished.

    Raises:
        RunInUseError: another command is writing into the folder.
        ValueError: see `resume`.
    """
    settings = folder.read_settings()
    for name, remedy in ((settings.env, f", or --env {settings.env}"), (settings.track, "")):
        unnamed = own_modules(name) - {*arguments.import_}
        if unnamed and not (remedy and arguments.env == (name,)):
            raise ValueError(
                f"{folder.config} names a module that would be imported, {name}; if you trust it, add "
                f"--import {' '.join(unnamed)}{remedy}"
            )
    check_tracker(settings.track)
    if folder.finished and (arguments.steps is None or arguments.steps <= settings.n_timesteps):
        show(f"{folder.path} is finished, with {settings.n_timesteps} steps; add --steps to train for more")
        return None
    environment_spec(settings.env)
    if arguments.steps is not None:
        settings = replace(settings, n_timesteps=whole(arguments.steps))
    check_ranks(settings, ranks)
    folder.claim()
    path, content = folder.read_checkpoint()
    step = content["agent"]["moving"]["num_timesteps"]
    count = number_of_environments(content)
    if count != settings.n_envs:  # before environments are created
        raise ValueError(
            f"{path} is of {count} environments, and {folder.config} has n_envs: {settings.n_envs}; "
            "restore it"
        )
    if step >= settings.n_timesteps and arguments.steps is not None:
        raise ValueError(f"{folder.path} has made {step} steps; give --steps a larger number to resume it")
    return settings, path, content


def check_unchanged(
    arguments: Arguments,
    settings: RunSettings,
    path: Path,
    recorded: Mapping[str, Any],
    document: Mapping[str, Any],
) -> None:
    """Check that a run would be resumed with the settings and versions of its checkpoint.

    Raises:
        ValueError: they differ, and the arguments do not allow changes.
    """
    changes = differences(recorded, document)
    # --steps is in config.yaml at once, and in checkpoints from the next one on.
    steps = recorded.get("n_timesteps")
    extended = isinstance(steps, int) and steps < settings.n_timesteps
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


def describe(settings: RunSettings, agent: OnPolicyAlgorithm, ranks: Ranks) -> dict[str, Any]:
    """Return the settings of a run as config.yaml and checkpoints store them."""
    joint = joint_target_kl(settings.algo, settings.hyperparameters, agent.action_space)
    besides: dict[str, Any] = {} if joint is None else {"target_kl_joint": joint}
    return settings.document(**besides, **({"ranks": ranks.size} if ranks.several else {}))


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
    tracker = Tracker(settings, document, folder) if settings.track and not ranks_of(agent).rank else None
    with StopSignals() as signals, tracker or nullcontext():
        play = partial(protocol.evaluate_in_training, settings)
        code, seconds = learn(agent, settings, document, folder, signals, play, content, tracker)
        if ranks_of(agent).rank > 0:  # rank 0 evaluates, and prints the result
            return code
        if code == 0:
            try:
                result = evaluate(settings, folder, agent.num_timesteps, signals, tracker)
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
        again = Arguments(resume=folder.path, import_=modules_of(settings, imports))
        show(f"  resume   {launcher()}{again}")
    return code


def evaluate(
    settings: RunSettings, folder: RunFolder, steps: int, signals: StopSignals, tracker: Tracker | None
) -> dict[str, Any]:
    """Evaluate, write evaluation.json, which marks the run as finished; return the result or {}."""
    episodes, result = settings.evaluation_episodes, {}
    if episodes:
        spec = environment_spec(settings.env)
        checkpoint = folder.read_checkpoint()
        result = protocol.evaluate(checkpoint, settings, spec, episodes=episodes, after_step=signals.check)
    write_final(folder.path, result)
    if tracker:
        tracker.write_final(result)
    folder.write_evaluation(result or {"steps": steps, "returns": []})
    return result
