"""What a command prints at its end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np

from agents import ALGORITHMS
from agents.runs.arguments import Arguments
from agents.runs.grid import Cell
from agents.runs.run_folder import RunFolder
from agents.runs.run_settings import RunSettings


def print_run(
    settings: RunSettings, folder: RunFolder, steps: int, seconds: float, returns: np.ndarray | None
) -> None:
    """Say what came out of a run, where it lies, and what to try next."""
    print(f"\n{settings.algo.upper()} on {settings.env}, seed {settings.seed}")
    if returns is not None:
        threshold = gym.spec(settings.env).reward_threshold
        verdict = ""
        if threshold is not None:
            solved = "solved" if returns.mean() >= threshold else "not yet solved"
            verdict = f" ({solved}: the task asks for {threshold:g})"
        print(
            f"  return   {returns.mean():.1f} ± {returns.std():.1f} "
            f"over {len(returns)} deterministic episodes{verdict}"
        )
    print(f"  trained  {steps} steps in {seconds:.1f} s, {steps / max(seconds, 1e-9):.0f} steps/s")
    print(f"  files    {folder.path}")
    print(f"  curves   tensorboard --logdir {folder.path.parent.parent}")
    out = folder.path.absolute().parent.parent.parent
    options = f"--env {settings.env}" + ("" if out == Arguments.out.absolute() else f" --out {out}")
    other = next(name for name in ALGORITHMS if name != settings.algo)
    print(f"  next     python train.py --algo {settings.algo} {options} --seed {settings.seed + 1}")
    print(f"           python train.py --algo {settings.algo} {other} {options} --seeds 5")


def print_grid(cells: Sequence[Cell], failures: Mapping[str, str]) -> None:
    """Say what came out of a grid: mean evaluation returns, and the runs that failed."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        path = cell.folder.path
        key = (path.parent.parent.name, path.parent.name)
        evaluation = cell.folder.read_evaluation()
        mean = evaluation.get("mean_return")
        found[key].append("failed" if not evaluation else "-" if mean is None else f"{mean:.1f}")
    print("\nmean return of the evaluation, a number a seed")
    for (env_id, algo), values in found.items():
        print(f"  {env_id:20} {algo:14} {'  '.join(values)}")
    for label, reason in failures.items():
        print(f"failed: {label}: {reason}")
