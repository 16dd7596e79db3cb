"""Evaluate the agent of a run folder.

    python -m experiments.evaluate runs/CartPole-v1/trpo/seed-0              # 100 deterministic episodes
    python -m experiments.evaluate runs/Hopper-v5/trpo/seed-0 --video        # and three of them as video.mp4
    python -m experiments.evaluate runs/Catch-v0/trpo/seed-0 --import envs   # a task that a module registers

Episode k starts from seed N + k, N being --seed, so that all agents meet the same episodes, and a larger
--episodes adds some and changes none. Stochastic actions of up to 16 episodes at a time come from one
generator: they are the same for the same --seed and --episodes.

The folder may be a stranger's: only tensors and plain data are read from it, and no code of it is run. A
module that its config.yaml names is imported by --import alone.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from experiments.evaluation.seeded_episodes import Explorer, find_environment, make_env, play
from experiments.evaluation.stored_model import load_normaliser, load_policy, read_config
from experiments.evaluation.video import Filmed, Video, frames_per_second, prepare_headless, stride
from experiments.report.statistics import bootstrap_interval, iqm
from experiments.run.atomic_file import replacing
from experiments.run.run_folder import versions
from experiments.run.stop_signals import INTERRUPTED

MOST_ENVS = 16
LEVEL = 0.95
EPISODES_FILMED = 3
# What a run folder, an option or an environment that makes no sense raises.
ERRORS = (ValueError, OSError, ImportError, RuntimeError, gym.error.Error)


@dataclass(frozen=True)
class Arguments:
    """Evaluate the agent of a run folder."""

    run: tyro.conf.Positional[Path]
    """A run folder."""
    episodes: int = 100
    """How many."""
    stochastic: bool = False
    """Draw actions as in training, in place of the most likely ones."""
    seed: int = 10_000
    """Of the first episode; the default is far from those of training."""
    video: bool = False
    """Film the first three episodes as video.mp4, beside the JSON file."""
    out: Path | None = None
    """The JSON file; RUN/evaluate.json by default."""
    import_: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="import")] = ()
    """A module to import first, as it registers the environment; repeatable."""


def prepared(
    run: Path, config: dict[str, Any], env: VecEnv, stochastic: bool
) -> tuple[PolicyPredictor, VecEnv]:
    """Return what predicts in a run, and environments under the run's normaliser."""
    if config["normalize"]:
        env = normaliser = load_normaliser(run / "vecnormalize.npz", env)
        normaliser.training = normaliser.norm_reward = False
    policy = load_policy(run, env)
    if not (stochastic and policy.use_sde):
        return policy, env
    settings = config["hyperparameters"]
    steps = [settings.get(name) for name in ("sde_sample_freq", "n_steps")]
    intervals = [n for n in steps if isinstance(n, int) and n > 0]
    return Explorer(policy, intervals[0] if intervals else 1), env


def summarise(returns: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """Return what is printed and written of returns and lengths: per name, one number for each."""
    result: dict[str, Any] = {}
    for name, values in (("return", returns), ("length", lengths)):
        interval = bootstrap_interval(iqm, [values], generator=np.random.default_rng(seed), level=LEVEL)
        bounds = [float(bound) if np.isfinite(bound) else None for bound in (interval.low, interval.high)]
        result |= {
            f"mean_{name}": float(np.mean(values)),
            f"std_{name}": float(np.std(values)),
            f"iqm_{name}": float(interval.estimate),
            f"iqm_{name}_interval": bounds,
            f"median_{name}": float(np.median(values)),
            f"min_{name}": float(np.min(values)),
            f"max_{name}": float(np.max(values)),
        }
    return result


def table(summary: dict[str, Any]) -> str:
    """Return the summary as lines of text."""
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


def film(arguments: Arguments, config: dict[str, Any], spec: EnvSpec, fps: float, path: Path) -> None:
    """Write the first episodes as an MP4."""
    episodes, every = min(EPISODES_FILMED, arguments.episodes), stride(fps)
    with replacing(path) as temporary:
        video = Video(temporary, fps / every)
        wrap = partial(Filmed, video=video, episodes=episodes, every=every)
        env = make_env(spec, arguments.seed, 1, wrap, render_mode="rgb_array")
        try:
            predictor, env = prepared(arguments.run, config, env, arguments.stochastic)
            play(predictor, env, episodes, deterministic=not arguments.stochastic, seed=arguments.seed)
        finally:
            video.close()
            env.close()
    print(f"  video    {path}, the first {episodes} episodes at {fps / every:g} frames/s")


def evaluate(arguments: Arguments) -> None:
    """Do it all; errors name the remedy."""
    out = arguments.out or arguments.run / "evaluate.json"
    if arguments.episodes < 1 or arguments.seed < 0:
        raise ValueError(
            f"expected --episodes ≥ 1 and --seed ≥ 0, got {arguments.episodes} and {arguments.seed}"
        )
    if out.suffix != ".json" or out.name == "evaluation.json":
        raise ValueError(f"--out must be a .json file, and not the run's own evaluation.json; got {out}")
    config = read_config(arguments.run)
    if arguments.video:
        prepare_headless()
    spec = find_environment(config["env"], arguments.import_)
    env = make_env(spec, arguments.seed, min(arguments.episodes, MOST_ENVS))
    try:
        fps = frames_per_second(spec, env.metadata) if arguments.video else None
        predictor, env = prepared(arguments.run, config, env, arguments.stochastic)
        deterministic = not arguments.stochastic
        returns, lengths = play(
            predictor, env, arguments.episodes, deterministic=deterministic, seed=arguments.seed
        )
    finally:
        env.close()
    summary = summarise(returns, lengths, arguments.seed)
    document = {
        "run": str(arguments.run),
        "algo": config["algo"],
        "env": spec.id,
        "episodes": arguments.episodes,
        "deterministic": deterministic,
        "seed": arguments.seed,
        "interval_level": LEVEL,
        **summary,
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "versions": versions(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n")
    kind = "deterministic" if deterministic else "stochastic"
    print(f"\n{config['algo'].upper()} on {spec.id}, {arguments.episodes} {kind} episodes\n")
    print(table(summary))
    print("\n  The interval is over episodes of this one policy; other training seeds differ by more.")
    print(f"  numbers  {out}")
    if fps is not None:
        film(arguments, config, spec, fps, out.with_name("video.mp4"))


def main(arguments: Arguments) -> int:
    """Evaluate, and return the exit code."""
    torch.set_num_threads(1)  # networks this small gain little from more
    try:
        evaluate(arguments)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what it was writing is left as it was", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
