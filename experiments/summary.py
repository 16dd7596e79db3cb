"""Print results at the end of a command."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import gymnasium

from agents import ALGORITHMS
from envs.single_env import environment_spec
from experiments.evaluation.result_text import cost_lines
from experiments.grid import Cell
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments, owner_of
from experiments.settings.run_settings import RunSettings
from experiments.terminal import show


def print_run(
    settings: RunSettings, folder: RunFolder, steps: int, seconds: float, evaluation: Mapping[str, Any]
) -> None:
    """Print the result of a run, and where its files are."""
    show(f"\n{settings.algo.upper()} on {settings.env}, seed {settings.seed}")
    if evaluation:
        threshold = environment_spec(settings.env.rpartition(":")[2]).reward_threshold
        verdict = ""
        if threshold is not None:
            solved = "solved" if evaluation["mean_return"] >= threshold else "not yet solved"
            verdict = f" ({solved}: the task asks for {threshold:g})"
        show(
            f"  return   {evaluation['mean_return']:.1f} ± {evaluation['std_return']:.1f} "
            f"over {evaluation['episodes']} deterministic episodes{verdict}"
        )
        for line in cost_lines(evaluation, settings.hyperparameters.get("cost_limit")):
            show(line)
    show(f"  trained  {steps} steps in {seconds:.1f} s, {steps / max(seconds, 1e-9):.0f} steps/s")
    show(f"  files    {folder.path}")
    show(f"  curves   {shlex.join(['tensorboard', '--logdir', str(folder.path.parent.parent)])}")


def print_next(arguments: Arguments, settings: RunSettings, folder: RunFolder) -> None:
    """Print the next commands after a finished run."""
    (algo,) = arguments.algo
    other = next(name for name in ALGORITHMS if name != algo)
    # The other algorithm may lack a setting of this one.
    own = tuple(
        tuple(f"{algo}.{text}" if owner_of(text) is None else text for text in group)
        for group in arguments.set
    )
    grid = replace(arguments, algo=(algo, other), set=own, steps=float(settings.n_timesteps), seeds=5)
    modules = modules_of(settings, arguments.import_)
    imports = ["--import", *modules] if modules else []
    video: list[str] = []
    with (
        suppress(Exception),
        closing(gymnasium.make(environment_spec(settings.env), **settings.env_kwargs)) as env,
    ):
        video = ["--video"] if "rgb_array" in env.metadata["render_modes"] else []
    show(f"  next     {shlex.join(['npg', 'evaluate', str(folder.path), *imports, *video])}")
    show(f"           {replace(arguments, seed=arguments.seed + 1)}")
    show(f"           {grid}")


def modules_of(settings: RunSettings, imports: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that a later command about a run has to import: the user's own, and `imports`."""
    return tuple(sorted({*imports, *settings.modules}))


def print_grid(cells: Sequence[Cell], failures: Mapping[str, str]) -> None:
    """Print the result of a grid: mean evaluation returns, and the runs that failed."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        path = cell.folder.path
        key = (path.parent.parent.name, path.parent.name)
        evaluation = cell.folder.read_evaluation()
        mean = evaluation.get("mean_return")
        found[key].append("failed" if not evaluation else "-" if mean is None else f"{mean:.1f}")
    show("\nmean evaluation return of each seed")
    for (env_id, algo), values in found.items():
        show(f"  {env_id:20} {algo:14} {'  '.join(values)}")
    for label, reason in failures.items():
        show(f"failed: {label}: {reason}")
