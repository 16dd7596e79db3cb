"""The command `npg share`."""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium.envs.registration import EnvSpec

from agents.untrusted_file import UnsafeFileError, read_text
from experiments.evaluate import EPISODES, ERRORS
from experiments.evaluation import protocol
from experiments.evaluation.seeded_episodes import find_environment, make_single
from experiments.evaluation.video import frames_per_second, prepare_headless
from experiments.extras import needs
from experiments.failure import describe_failure, is_of_environment, raised_at
from experiments.hub import PREFIX, repository, upload
from experiments.model_card import model_card
from experiments.options import Share
from experiments.report.run_files import RETURN, STEPS, read_log
from experiments.run import plain_yaml
from experiments.run.atomic_file import PARTIAL, replacing
from experiments.run.run_folder import RunFolder, write_json
from experiments.run.stop_signals import INTERRUPTED
from experiments.settings.run_settings import RunSettings
from experiments.shared_folder import read_policy, write_policy
from experiments.terminal import one_line, show


def share(arguments: Share) -> None:
    """Write a shared folder, or upload it.

    Raises:
        EvaluationError: see `experiments.evaluation.seeded_episodes.play`.
        ImportError, OSError, RuntimeError, ValueError: the run, an option or the environment is invalid, or
            the hub cannot be reached; the message says how to fix it.
    """
    if arguments.episodes is not None and arguments.episodes < 1:
        raise ValueError(f"expected --episodes ≥ 1, got {arguments.episodes}")
    if arguments.to.startswith(PREFIX):
        name = repository(arguments.to)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(arguments, Path(folder), name.rpartition("/")[2])
            show(f"uploaded {upload(Path(folder), name)}")
        return
    out = Path(arguments.to)
    if out.is_symlink():
        raise UnsafeFileError(f"{one_line(out)} is a link; delete it, or choose another folder with --to")
    if out.exists():
        raise FileExistsError(f"{one_line(out)} exists; delete it, or choose another folder with --to")
    # A new folder with a random name, so that no link in it can be followed; renamed when it is complete.
    partial = out.with_name(f"{PARTIAL}{secrets.token_hex(8)}-{out.name}")
    partial.mkdir(parents=True)
    try:
        write_folder(arguments, partial, out.name)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    show(f"wrote {one_line(out)}; read its README.md before you publish it")


def write_folder(arguments: Share, out: Path, name: str) -> None:
    """Write all files of a shared folder.

    Args:
        arguments: the options.
        out: an empty folder.
        name: what its README.md calls it.

    Raises:
        Exception: see `share`.
    """
    run = RunFolder(arguments.run)
    settings = run.read_settings()
    document = plain_yaml.read(run.config)
    prepare_headless()
    spec = find_environment(settings.env, arguments.import_)
    masked = write_policy(read_policy(run, arguments.checkpoint), settings, spec, out)
    with replacing(out / "config.yaml") as file:
        file.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    # What is evaluated is what was written.
    written = read_policy(RunFolder(out))
    episodes = arguments.episodes or settings.evaluation_episodes or EPISODES
    result = protocol.evaluate(written, settings, spec, episodes=episodes)
    write_json(out / "evaluation.json", result)
    show(f"evaluated {episodes} episodes: return {result['mean_return']:.2f} ± {result['std_return']:.2f}")
    compare(result, run)
    if run.progress.exists():
        with replacing(out / "progress.csv") as file:
            file.write(read_text(run.progress).encode())
        attempt("curve.png", lambda: draw_curve(run, settings, out / "curve.png"))
    else:
        show(f"note: {run.path} has no progress.csv, so there is no learning curve")
    attempt("replay.mp4", lambda: record(written, settings, spec, result, out / "replay.mp4"))
    files = {path.name for path in out.iterdir()}
    with replacing(out / "README.md") as file:
        file.write(model_card(settings, document, result, files, name, masked).encode())


def compare(result: dict[str, Any], run: RunFolder) -> None:
    """Print whether the episodes are those of the run's own evaluation, if that is of the same policy."""
    own = run.read_evaluation()
    if own.get("steps") != result["steps"] or not isinstance(own.get("returns"), list):
        return
    common = min(len(own["returns"]), len(result["returns"]))
    if own["returns"][:common] != result["returns"][:common]:
        show(
            "note: the returns differ from those in the run's evaluation.json, which was measured with other "
            "versions, or on another machine; README.md has the new ones"
        )


def attempt(name: str, make: Callable[[], object]) -> None:
    """Make a picture; if that is impossible, e.g. without an extra, print the reason."""
    try:
        make()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        show(f"note: no {name}: {error}")


def draw_curve(run: RunFolder, settings: RunSettings, path: Path) -> None:
    """Draw the training return over environment steps.

    Raises:
        ImportError: the extra `report` is not installed.
        OSError, ValueError: progress.csv cannot be read.
    """
    with needs("report"):
        from matplotlib.figure import Figure
    log = read_log(run)
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    ax = figure.subplots()
    known = np.isfinite(log[RETURN])  # NaN until an episode has ended
    ax.plot(log[STEPS][known], log[RETURN][known])
    ax.set(xlabel="environment steps", ylabel="training return (last 100 episodes)", title=settings.env)
    ax.grid(alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def record(written: Any, settings: RunSettings, spec: EnvSpec, result: dict[str, Any], path: Path) -> None:
    """Record the first episodes as a video.

    Raises:
        ImportError: the extra `video` is not installed.
        RuntimeError, ValueError: the environment cannot be rendered.
    """
    env = make_single(spec, settings.env_kwargs)
    try:
        fps = frames_per_second(spec, env.metadata)
    finally:
        env.close()
    protocol.record_video(written, settings, spec, result, fps, path)


def main(arguments: Share) -> int:
    """Share, and return the exit code."""
    torch.set_num_threads(1)  # small networks gain little from more threads
    try:
        share(arguments)
    except KeyboardInterrupt:
        show("\ninterrupted; nothing was written", error=True)
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        if is_of_environment(error):
            show(describe_failure(error, "in the evaluation"), error=True)
            return 1
        if not isinstance(error, ERRORS):
            raise
        show(f"error: {error}{raised_at(error)}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    from experiments.command import main as command

    sys.exit(command(["share", *sys.argv[1:]]))
