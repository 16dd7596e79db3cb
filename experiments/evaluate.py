"""The command `npg evaluate`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from experiments.evaluation import protocol
from experiments.evaluation.seeded_episodes import EvaluationError, find_environment, make_single
from experiments.evaluation.video import RenderError, frames_per_second, prepare_headless
from experiments.failure import describe_failure, is_of_environment, raised_at
from experiments.options import Evaluate
from experiments.run.run_folder import RunFolder, write_json
from experiments.run.stop_signals import INTERRUPTED
from experiments.shared_folder import read_policy
from experiments.terminal import show

EPISODES = 100  # used if the run's own evaluation had none
# Raised for an invalid run folder, option or environment.
ERRORS = (ValueError, OSError, ImportError, RuntimeError, SystemExit, gym.error.Error)


def table(summary: dict[str, Any]) -> str:
    """Return the summary as a table of text."""
    lines = [f"  {'':8}{'return':>24}{'length':>24}"]
    for row in ("mean", "std", "iqm", "iqm 95 %", "median", "min", "max"):
        cells = []
        for name in ("return", "length"):
            value = summary[f"iqm_{name}_interval" if row == "iqm 95 %" else f"{row}_{name}"]
            if isinstance(value, list):
                cells.append("unknown" if None in value else f"{value[0]:.2f} to {value[1]:.2f}")
            else:
                cells.append(f"{value:.2f}")
        lines.append(f"  {row.replace('iqm', 'IQM'):8}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def cost_lines(result: Mapping[str, Any], limit: Any = None) -> list[str]:
    """Return a line per cost that the environment reported, with the mean sum per episode.

    Args:
        result: the result of an evaluation.
        limit: the run's cost_limit; None if it has none.
    """
    names = protocol.cost_names(len(result["costs"][0])) if "costs" in result else []
    limits = limit if isinstance(limit, list) else [limit]
    lines = []
    for i, name in enumerate(names):
        low, high = result[f"mean_{name}_interval"]
        text = f"  {name:8} {result[f'mean_{name}']:.2f} per episode"
        text += "" if None in (low, high) else f", 95 % interval {low:.2f} to {high:.2f}"
        lines.append(text + (f"; limit {limits[i]:g}" if i < len(limits) and limits[i] is not None else ""))
    return lines


def evaluate(arguments: Evaluate) -> None:
    """Evaluate, and print and write the results.

    Raises:
        EvaluationError: see `play`.
        ImportError, OSError, RuntimeError, ValueError: the run, an option or the environment is invalid; the
            message says how to fix it.
    """
    folder, out = RunFolder(arguments.run), arguments.out or arguments.run / "evaluate.json"
    if min(1 if arguments.episodes is None else arguments.episodes, (arguments.seed or 0) + 1) < 1:
        raise ValueError(
            f"expected --episodes ≥ 1 and --seed ≥ 0, got {arguments.episodes} and {arguments.seed}"
        )
    if out.suffix != ".json" or out.name == folder.evaluation.name:
        raise ValueError(f"--out must be a .json file, and not the run's own evaluation.json; got {out}")
    settings = folder.read_settings()
    if arguments.video:
        prepare_headless()
    spec = find_environment(settings.env, arguments.import_)
    fps = None
    if arguments.video:
        env = make_single(spec, settings.env_kwargs)
        fps = frames_per_second(spec, env.metadata)
        env.close()
    checkpoint = read_policy(folder, arguments.checkpoint)
    result = protocol.evaluate(
        checkpoint,
        settings,
        spec,
        episodes=arguments.episodes or settings.evaluation_episodes or EPISODES,
        seed=arguments.seed,
        deterministic=not arguments.stochastic,
    )
    kind = "deterministic" if result["deterministic"] else "stochastic"
    trained = f"{settings.algo.upper()} on {spec.id} after {result['steps']} steps"
    show(f"\n{trained}, {result['episodes']} {kind} episodes\n")
    show(table(result))
    for line in cost_lines(result, settings.hyperparameters.get("cost_limit")):
        show(line)
    show("\n  The interval is over episodes of this one policy; other training seeds differ by more.")
    out.parent.mkdir(parents=True, exist_ok=True)  # after printing the results, since this may fail
    write_json(out, result)
    show(f"  numbers  {out}")
    if fps is not None:
        path: Path = out.with_name("video.mp4")
        episodes, shown = protocol.record_video(checkpoint, settings, spec, result, fps, path)
        show(f"  video    {path}, the first {episodes} episodes at {shown:g} frames/s")


def main(arguments: Evaluate) -> int:
    """Evaluate, and return the exit code."""
    torch.set_num_threads(1)  # small networks gain little from more threads
    try:
        evaluate(arguments)
    except KeyboardInterrupt:
        show("\ninterrupted; the files are unchanged", error=True)
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        if is_of_environment(error) and not isinstance(error, RenderError):
            show(describe_failure(error, "in the evaluation"), error=True)
            return 1
        if not isinstance(error, ERRORS):
            raise
        show(f"error: {error}{raised_at(error)}", error=True)
        return 1 if isinstance(error, EvaluationError) else 2
    return 0


if __name__ == "__main__":
    from experiments.command import main as command

    sys.exit(command(["evaluate", *sys.argv[1:]]))
