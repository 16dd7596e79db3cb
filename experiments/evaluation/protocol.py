"""Evaluate a trained run; the end of training and `npg evaluate` share this code."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from experiments.evaluation.seeded_episodes import Explorer, make_env, play
from experiments.evaluation.video import Recorded, open_video, stride
from experiments.report.statistics import bootstrap_interval, iqm
from experiments.run.atomic_file import replacing
from experiments.run.stored_policy import Checkpoint, restore_policy
from experiments.settings.provenance import versions
from experiments.settings.run_settings import RunSettings

MOST_ENVS = 16
LEVEL = 0.95
EPISODES_RECORDED = 3
FIRST_SEED = 10_000  # added to the run's seed, so that evaluation episodes differ from training episodes


def evaluate(
    checkpoint: Checkpoint,
    settings: RunSettings,
    spec: EnvSpec,
    *,
    episodes: int,
    seed: int | None = None,
    deterministic: bool = True,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Play episodes with the policy of a checkpoint, and return the content of evaluation.json.

    Args:
        checkpoint: a checkpoint of the run.
        settings: the run's settings.
        spec: spec of the environment.
        episodes: number of episodes; episode k starts from seed + k.
        seed: seed of the first episode; None for `FIRST_SEED` plus the run's seed.
        deterministic: whether to take the most likely actions instead of sampling.
        after_step: called after every step; may raise to end the evaluation.

    Raises:
        EvaluationError: see `play`.
        ImportError, ValueError: see `restore_policy`.
    """
    seed = FIRST_SEED + settings.seed if seed is None else seed
    env = make_env(spec, seed, min(episodes, MOST_ENVS))
    try:
        predictor, env = load(checkpoint, settings, env, deterministic)
        returns, lengths = play(
            predictor, env, episodes, deterministic=deterministic, seed=seed, after_step=after_step
        )
    finally:
        env.close()
    return {
        "steps": checkpoint[1]["agent"]["moving"]["num_timesteps"],
        "algo": settings.algo,
        "env": spec.id,
        "episodes": episodes,
        "deterministic": deterministic,
        "seed": seed,
        "interval_level": LEVEL,
        **summarise(returns, lengths, seed),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "versions": versions(),
    }


def load(
    checkpoint: Checkpoint, settings: RunSettings, env: VecEnv, deterministic: bool
) -> tuple[PolicyPredictor, VecEnv]:
    """Return a run's policy, and `env` with the run's normaliser."""
    policy, env = restore_policy(checkpoint, settings, env)
    if deterministic or not policy.use_sde:
        return policy, env
    steps = [settings.hyperparameters.get(name) for name in ("sde_sample_freq", "n_steps")]
    intervals = [n for n in steps if isinstance(n, int) and n > 0]
    return Explorer(policy, intervals[0] if intervals else 1), env


def summarise(returns: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """Return mean, standard deviation, quantiles, and IQM with its interval, of returns and of lengths."""
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


def record_video(
    checkpoint: Checkpoint,
    settings: RunSettings,
    spec: EnvSpec,
    result: dict[str, Any],
    fps: float,
    path: Path,
) -> tuple[int, float]:
    """Record the first episodes of an evaluation as an MP4 file.

    Args:
        checkpoint: the evaluated checkpoint.
        settings: the run's settings.
        spec: spec of the environment.
        result: what `evaluate` returned; episodes, seed and kind of actions are the same.
        fps: steps of the environment per second of video.
        path: path of the file.

    Returns:
        The number of episodes, and the frames per second of the file.

    Raises:
        RenderError: the environment cannot be rendered.
        EvaluationError: see `play`.
    """
    deterministic, seed = result["deterministic"], result["seed"]
    episodes, every = min(EPISODES_RECORDED, result["episodes"]), stride(fps)
    with replacing(path) as file:
        video = open_video(Path(file.name), fps / every)
        wrap: Callable[[gym.Env], gym.Env] = partial(Recorded, video=video, episodes=episodes, every=every)
        env = make_env(spec, seed, 1, wrap, render_mode="rgb_array")
        try:
            predictor, env = load(checkpoint, settings, env, deterministic)
            play(predictor, env, episodes, deterministic=deterministic, seed=seed)
        finally:
            video.close()
            env.close()
    return episodes, fps / every
