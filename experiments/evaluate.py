"""The command `npg evaluate`."""

import sys
from pathlib import Path

import gymnasium as gym
import torch

from experiments.evaluation import protocol
from experiments.evaluation.result_text import cost_lines, table
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
