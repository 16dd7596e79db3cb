"""Compare algorithms: make all runs of a grid, then write a report."""

import itertools
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from envs.cores import usable_cores
from envs.extras import install_command
from experiments.algorithms import own_modules
from experiments.grid import Cell, run_grid
from experiments.options import Report
from experiments.report import command as report
from experiments.run.run_folder import RunFolder
from experiments.run.stop_signals import Stopped
from experiments.settings.arguments import AUTO, Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings, differences
from experiments.summary import print_grid
from experiments.terminal import show

if TYPE_CHECKING:
    from experiments.cluster import Cluster

REPORT_MODULES = ("jinja2", "matplotlib", "plotly")  # of the extra `report`


def compare(arguments: Arguments) -> int:
    """Make all runs of a grid, write a report, and return the exit code."""
    # Each run takes one core.
    jobs = arguments.jobs or len(usable_cores())
    if arguments.cluster is not None:
        arguments = on_nodes(arguments)
    elif arguments.vec_env == "auto" and jobs > 1:
        arguments = replace(arguments, vec_env="dummy")
    cells = []
    for env_id in arguments.env:
        singles = [arguments.single(algo, env_id, arguments.seed) for algo in arguments.algo]
        # All algorithms get the same budget, so that the comparison is fair.
        steps = max(resolve(single).n_timesteps for single in singles)
        show(f"{env_id}: {steps} steps per run")
        for single, k in itertools.product(singles, range(arguments.seeds)):
            single = replace(single, seed=arguments.seed + k, steps=float(steps))
            label = f"{single.algo[0]} {env_id} seed {single.seed}"
            continued(single)  # raises if the folder holds a finished run with other settings
            cells.append(Cell(label, replace(single, resume=AUTO).command(), folder_of(single), steps))
    if missing := [name for name in REPORT_MODULES if find_spec(name) is None]:
        show(
            f"there will be no report, which needs {' and '.join(missing)}; install what is missing with: "
            f"{install_command('report')}"
        )
    try:
        if arguments.cluster is None:
            failures = run_grid(cells, min(jobs, len(cells)))
        else:
            with connected(arguments) as cluster:
                failures = run_grid(cells, arguments.jobs or cluster.cores, cluster.start)
    except Stopped as stopped:
        show("repeat the command to resume: finished runs are kept")
        return stopped.code
    print_grid(cells, failures)
    write_report(cells, arguments.out / "report")
    return 1 if failures else 0


def on_nodes(arguments: Arguments) -> Arguments:
    """Return arguments that mean the same on every node; a run has one core, and a GPU if it asks for one."""
    return replace(
        arguments,
        out=arguments.out.absolute(),
        config=arguments.config and arguments.config.absolute(),
        device="cpu" if arguments.device == "auto" else arguments.device,
        vec_env="dummy" if arguments.vec_env == "auto" else arguments.vec_env,
    )


def connected(arguments: Arguments) -> "AbstractContextManager[Cluster]":
    """Connect to the cluster of --cluster."""
    from experiments.cluster import connect  # Ray is an optional dependency

    assert arguments.cluster is not None
    gpus = arguments.gpu_share if arguments.device.startswith("cuda") else 0.0
    return connect(arguments.cluster, arguments.out, gpus, arguments.jobs)


def folder_of(single: Arguments) -> RunFolder:
    """Return the folder of one run."""
    return RunFolder.of(single.out, single.env[0], single.algo[0], single.seed)


def continued(single: Arguments) -> Arguments:
    """Return the arguments of one run, or those that resume it if it was started with the same settings.

    Raises:
        ValueError: the folder holds a finished run with other settings.
    """
    requested, folder = resolve(single), folder_of(single)
    if folder.finished or any(folder.checkpoints.glob("*.ckpt")):
        try:
            begun = folder.read_settings()
        except ValueError:  # a damaged config.yaml: start again
            return single
        requested = replace(requested, device=begun.device)
        if requested.vec_env == "auto":
            requested = replace(requested, vec_env=begun.vec_env)
        if folder.finished:
            check_same_task(begun, requested, folder)
        elif requested == begun:
            trusted = single.env if ":" in begun.env else Arguments.env
            modules = (*single.import_, *sorted(begun.modules - own_modules(begun.env)))
            return Arguments(resume=folder.path, env=trusted, import_=modules)
    return single


def check_same_task(finished: RunSettings, requested: RunSettings, folder: RunFolder) -> None:
    """Check that a finished run has the settings that a grid requests, except those for recording.

    Raises:
        ValueError: the run was trained or evaluated with other settings.
    """
    recording = ("geometry", "checkpoint_every", "eval_every")
    requested = replace(requested, **{name: getattr(finished, name) for name in recording})
    if not {"envpool", "tensor"} & {requested.vec_env, finished.vec_env}:  # all others give the same results
        requested = replace(requested, vec_env=finished.vec_env)
    if requested != finished and (found := differences(finished.document(), requested.document())):
        raise ValueError(
            f"{folder.path} holds a finished run with other settings ({'; '.join(found)}), which is not "
            "comparable with the new ones; choose another --out, or delete it"
        )


def write_report(cells: Sequence[Cell], out: Path) -> None:
    """Write the report on all finished runs of a grid; if that fails, print the command to write it."""
    runs = tuple(cell.folder.path for cell in cells if cell.folder.finished)
    if not runs:
        return
    if report.main(Report(runs, out), failed="no report") != 0:  # e.g. an extra is missing
        show(f"then make the report with: {shlex.join(['npg', 'report', str(out.parent)])}")
