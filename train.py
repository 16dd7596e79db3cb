"""Train agents on Gymnasium tasks: one run, a grid of runs to compare, or a search for settings.

    python train.py                                            # TRPO on CartPole-v1, to solved
    python train.py --algo npg --env Hopper-v5 --steps 1e6 --seed 3
    python train.py --algo trpo --env Hopper-v5 --set target_kl=0.02 cg_damping=0.05
    python train.py --algo npg vpg trpo sb3:ppo --env CartPole-v1 Acrobot-v1 --seeds 5 --jobs 2
    python train.py --resume runs/Hopper-v5/npg/seed-3
    python train.py --algo npg --env Pendulum-v1 --tune 50

Settings come from configs/<algo>.yaml: the environment's section, or `default`. --config names another
file, --set changes single settings: any argument of the agent's constructor, n_envs or normalize; of
policy_kwargs, those keys that are given. In a grid, npg.target_kl=0.02 is for NPG alone.

A run writes runs/<env>/<algo>/seed-<n>/: config.yaml (all settings, and the versions that produced the run),
progress.csv and TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl where observations are
normalised, and evaluation.json. Ctrl-C and SIGTERM end it after the current update, with a checkpoint, from
which --resume goes on as if nothing had happened; so it does after a crash. A grid leaves out runs that are
finished and resumes those that are not, so that the same command goes on after an interrupt, and ends with
a report. --tune searches settings with Optuna, on seeds that no run may have, and writes tuning/best.yaml,
which --config takes; repeated, it goes on.
"""

import importlib
import itertools
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents import NonFiniteError
from envs import choose_vec_env, make_vec_env
from envs.cores import usable_cores
from envs.factory import environment_spec
from envs.state.vec_env_checkpointer import VecEnvCheckpointer
from experiments.algorithms import agent_class, build, folder_name, joint_target_kl
from experiments.evaluation.seeded_episodes import EndlessEpisodeError
from experiments.geometry import GeometryCallback
from experiments.grid import Cell, GridStopped, run_grid
from experiments.report import command as report
from experiments.run.checkpoints import Checkpoints
from experiments.run.run import evaluate, learn
from experiments.run.run_folder import RunFolder
from experiments.run.stop_signals import INTERRUPTED, Stopped, StopSignals
from experiments.settings.arguments import Arguments, owner_of
from experiments.settings.configuration import Configuration
from experiments.settings.run_settings import RunSettings, differences
from experiments.summary import print_grid, print_next, print_run

CONFIGS = Path(__file__).parent / "configs"
# What a setting that makes no sense raises, here, in SB3 or in a user's policy, before training starts.
SETUP_ERRORS = (ValueError, TypeError, AssertionError, ImportError, OSError, NotImplementedError)
EVALUATION_SEED = 10_000  # is added to the run's, so that evaluation episodes are none of the training's


def main(arguments: Arguments) -> int:
    """Run it all and return the exit code."""
    # Networks this small gain little from more, and lose much where other programs keep the cores busy.
    torch.set_num_threads(1)
    try:
        arguments.check()
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
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def resolve(arguments: Arguments) -> tuple[Configuration, RunFolder]:
    """Return what one run does, and where."""
    (algo,), (env_id,) = arguments.algo, arguments.env
    path = arguments.config or CONFIGS / f"{folder_name(algo)}.yaml"
    overrides = [
        text if owner_of(text) is None else text.partition(".")[2]
        for text in itertools.chain.from_iterable(arguments.set)
    ]
    configuration = Configuration.read(path, env_id, agent_class(algo), overrides)
    configuration = configuration.with_run(n_timesteps=arguments.steps, n_envs=arguments.n_envs)
    return configuration, RunFolder.of(arguments.out, env_id, algo, arguments.seed)


def run(arguments: Arguments) -> int:
    """Make one run."""
    configuration, folder = resolve(arguments)
    folder.check_free()
    settings = settings_of(arguments, configuration)
    if settings.vec_env == "auto":
        choice = choose_vec_env(settings.env, configuration.n_envs)
        print(f"vec_env: {choice}")
        settings = replace(settings, vec_env=choice.vec_env)
    with closing(folder), closing(make_env(settings)) as env:
        agent = build(settings.algo, configuration, env, seed=settings.seed, device=settings.device)
        settings = replace(settings, device=str(agent.device))
        if (aside := folder.create()) is not None:
            print(f"an unfinished run was in the way; it is now {aside}")
        document = document_of(settings, agent)
        folder.write_config(document)
        code = execute(settings, document, folder, agent)
    print_next(arguments, configuration.n_timesteps)
    return code


def settings_of(arguments: Arguments, configuration: Configuration) -> RunSettings:
    """Return what one run was told; device and vec_env may be still "auto"."""
    return RunSettings(
        algo=arguments.algo[0],
        env=arguments.env[0],
        seed=arguments.seed,
        device=arguments.device,
        vec_env=arguments.vec_env,
        evaluation_episodes=arguments.episodes,
        geometry=arguments.geometry,
        checkpoint_every=arguments.checkpoint_every,
        configuration=configuration,
    )


def document_of(settings: RunSettings, agent: OnPolicyAlgorithm) -> dict[str, Any]:
    """Return what config.yaml holds of a run."""
    joint = joint_target_kl(settings.algo, settings.configuration.hyperparameters, agent.action_space)
    return settings.document(**({} if joint is None else {"target_kl_joint": joint}))


def resume(arguments: Arguments) -> int:
    """Go on with a run.

    Raises:
        ValueError: another option was given, the run is finished or without a checkpoint, or what it was made
            with is no longer the same.
    """
    assert arguments.resume is not None
    given = replace(arguments, resume=None, allow_changes=False, steps=None, env=Arguments.env)
    if given != Arguments():
        raise ValueError("--resume takes its settings from the run; give it only --steps and --allow-changes")
    folder = RunFolder(arguments.resume)
    settings = RunSettings.from_document(folder.read_config())
    if ":" in settings.env and arguments.env != (settings.env,):
        raise ValueError(
            f"{folder.config} names a module that would be imported, {settings.env}; if you trust it, "
            f"add --env {settings.env}"
        )
    environment_spec(settings.env)
    configuration = settings.configuration.with_run(n_timesteps=arguments.steps)
    with closing(folder):
        folder.claim()
        return go_on(arguments, replace(settings, configuration=configuration), folder)


def go_on(arguments: Arguments, settings: RunSettings, folder: RunFolder) -> int:
    """Go on from the newest checkpoint that is whole.

    Raises:
        ValueError: as `resume` says.
    """
    configuration = settings.configuration
    checkpoints = Checkpoints(folder.checkpoints)
    path, content = checkpoints.newest_valid()
    for error in checkpoints.refused:
        print(f"passed over: {error}", file=sys.stderr)
    try:
        step, made_with = content["agent"]["moving"]["num_timesteps"], content["run"]
    except (KeyError, TypeError, IndexError):
        raise ValueError(f"{path} is a file of this format, but no checkpoint of train.py") from None
    if step >= configuration.n_timesteps and (folder.finished or arguments.steps is not None):
        made = "is finished, with" if folder.finished else "has made"
        raise ValueError(f"{folder.path} {made} {step} steps; --steps with more goes on")
    with closing(make_env(settings, step)) as env:
        agent = build(settings.algo, configuration, env, seed=settings.seed, device=settings.device)
        document = document_of(settings, agent)
        changes = differences(made_with, document)
        if arguments.steps is not None:  # that they differ is what was asked for
            changes = [change for change in changes if not change.startswith("n_timesteps:")]
        if changes and not arguments.allow_changes:
            raise ValueError(
                f"{path} was made with other settings or versions, and going on would not give the same run: "
                f"{'; '.join(changes)}. Put them back, or add --allow-changes"
            )
        for change in changes:
            print(f"changed: {change}")
        print(f"going on from {path}")
        return execute(settings, document, folder, agent, content)


def execute(
    settings: RunSettings,
    document: dict[str, Any],
    folder: RunFolder,
    agent: OnPolicyAlgorithm,
    content: dict[str, Any] | None = None,
) -> int:
    """Learn and evaluate, from the start or from a checkpoint's content."""
    looks = [GeometryCallback(settings.geometry)] if settings.geometry else []
    returns = None
    with StopSignals() as signals:
        outcome = learn(
            agent, document, folder, signals, envs=VecEnvCheckpointer(), looks=looks, content=content
        )
        code = outcome.code
        if code == 0:
            n_envs, seed = min(max(settings.evaluation_episodes, 1), 16), settings.seed + EVALUATION_SEED
            tests = folder.normalised(make_vec_env(settings.env, n_envs, seed=seed, vec_env="dummy"))
            try:
                returns = evaluate(agent, tests, folder, signals, settings.evaluation_episodes)
            except Stopped as stopped:
                code = stopped.code
                again = shlex.join(["python", "train.py", "--resume", str(folder.path)])
                print(f"\n{stopped}; the evaluation is made by: {again}")
            except (NonFiniteError, EndlessEpisodeError) as error:
                code = 1
                print(f"error: {error}", file=sys.stderr)
            except OSError as error:
                code = 1
                print(f"error: {folder.evaluation} could not be written: {error}", file=sys.stderr)
            finally:
                tests.close()
    print_run(settings, folder, agent.num_timesteps, outcome.seconds, returns)
    return code


def make_env(settings: RunSettings, step: int = 0) -> VecEnv:
    """Build the training environments; from a later step on with other episodes than the first."""
    configuration = settings.configuration
    seed = settings.seed + step
    env = make_vec_env(settings.env, configuration.n_envs, seed=seed, vec_env=settings.vec_env)
    if configuration.normalize:
        return VecNormalize(env, gamma=configuration.hyperparameters["gamma"])
    return env


def compare(arguments: Arguments) -> int:
    """Make all runs of a grid, and a report of them."""
    # Each run takes one core.
    jobs = arguments.jobs or len(usable_cores())
    if arguments.vec_env == "auto" and jobs > 1:
        arguments = replace(arguments, vec_env="dummy")
    cells = []
    for env_id in arguments.env:
        singles = [arguments.single(algo, env_id, arguments.seed) for algo in arguments.algo]
        # One budget for all, so that nobody gets more.
        steps = max(resolve(single)[0].n_timesteps for single in singles)
        print(f"{env_id}: {steps} steps a run")
        for single, k in itertools.product(singles, range(arguments.seeds)):
            single = replace(single, seed=arguments.seed + k, steps=float(steps))
            _, folder = resolve(single)
            label = f"{single.algo[0]} {env_id} seed {single.seed}"
            cells.append(Cell(label, command_of(single), folder, steps))
    try:
        failures = run_grid(cells, min(jobs, len(cells)))
    except KeyboardInterrupt as interrupt:
        print("repeat the command to go on: finished runs are kept")
        return interrupt.code if isinstance(interrupt, GridStopped) else INTERRUPTED
    print_grid(cells, failures)
    write_report(cells, arguments.out / "report")
    return 1 if failures else 0


def command_of(single: Arguments) -> list[str]:
    """Return the command that makes one run, or goes on with it where it was begun with the same settings.

    Raises:
        ValueError: a finished run with other settings is in its place.
    """
    configuration, folder = resolve(single)
    if folder.finished or any(folder.checkpoints.glob("*.ckpt")):
        try:
            begun = RunSettings.from_document(folder.read_config())
        except ValueError:  # a damaged config.yaml: begin anew
            return single.command()
        told = replace(settings_of(single, configuration), device=begun.device)
        if told.vec_env == "auto":
            told = replace(told, vec_env=begun.vec_env)
        if folder.finished:
            check_same_task(begun, told, folder)
        elif told == begun:
            trusted = single.env if ":" in begun.env else Arguments.env
            return replace(Arguments(), resume=folder.path, env=trusted).command()
    return single.command()


def check_same_task(finished: RunSettings, told: RunSettings, folder: RunFolder) -> None:
    """Check that a finished run is the one that a grid asks for.

    Raises:
        ValueError: it learnt or was evaluated otherwise; how often it was looked at and kept does not matter.
    """
    told = replace(told, geometry=finished.geometry, checkpoint_every=finished.checkpoint_every)
    if "envpool" not in (told.vec_env, finished.vec_env):  # the others give the same numbers
        told = replace(told, vec_env=finished.vec_env)
    if told != finished and (found := differences(finished.document(), told.document())):
        raise ValueError(
            f"{folder.path} holds a finished run with other settings ({'; '.join(found)}), which would stand "
            "beside the new ones; choose another --out, or delete it"
        )


def write_report(cells: Sequence[Cell], out: Path) -> None:
    """Write the report on all finished runs of a grid, or say how to."""
    runs = tuple(cell.folder.path for cell in cells if cell.folder.finished)
    if not runs:
        return
    try:
        importlib.import_module("plotly")
    except ImportError:
        print(
            f"\nfor a report: pip install -c constraints.txt -e '.[report]', then "
            f"{shlex.join(['python', '-m', 'experiments.report', str(out.parent)])}"
        )
        return
    report.main(report.Arguments(runs, out))


def tune(arguments: Arguments) -> int:
    """Search for settings of one algorithm on one task."""
    if len(arguments.algo) * len(arguments.env) * arguments.seeds > 1:
        raise ValueError("--tune takes one --algo and one --env, and chooses its seeds itself")
    # Not at the top, since Optuna is an extra.
    from experiments.tuning.search import tune as search
    from experiments.tuning.study import Search

    configuration, folder = resolve(arguments)
    settings = settings_of(replace(arguments, vec_env="dummy"), configuration)
    assert arguments.tune is not None
    result = search(
        Search(
            settings.algo,
            settings.env,
            configuration,
            partial(make_tuning_env, settings),
            folder.path.parent / "tuning",
            device=settings.device,
        ),
        trials=arguments.tune,
        jobs=arguments.jobs or len(usable_cores()),
    )
    print(result)
    return 0


def make_tuning_env(settings: RunSettings, configuration: Configuration, seed: int) -> VecEnv:
    """Build the environments of one trial."""
    return make_env(replace(settings, configuration=configuration, seed=seed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
