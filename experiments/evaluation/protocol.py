"""Evaluate a trained run; the end of training and `npg evaluate` share this code."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from agents.masking import MaskedPredictor, masks_apply
from envs.single_env import environment_spec
from experiments.cost_names import cost_names
from experiments.evaluation.seeded_episodes import EvaluationError, Explorer, make_env, play
from experiments.evaluation.video import Recorded, open_video, stride
from experiments.report.statistics import bootstrap_interval, iqm, mean
from experiments.run.atomic_file import replacing
from experiments.run.generators import restore_generators, take_generators
from experiments.run.stored_policy import Checkpoint, restore_policy
from experiments.settings.provenance import versions
from experiments.settings.run_settings import RunSettings
from experiments.terminal import show

MOST_ENVS = 16
LEVEL = 0.95
EPISODES_RECORDED = 3
FIRST_SEED = 10_000  # added to the run's seed, so that evaluation episodes differ from training episodes

EPISODES_IN_TRAINING, FIRST_SEED_IN_TRAINING = 10, 20_000
IN_TRAINING = Path("checkpoints/in-training.ckpt")  # names a checkpoint that is not a file, in messages


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
    returns, lengths, costs = play_checkpoint(
        checkpoint,
        settings,
        spec,
        episodes=episodes,
        seed=seed,
        deterministic=deterministic,
        after_step=after_step,
    )
    return {
        "steps": checkpoint[1]["agent"]["moving"]["num_timesteps"],
        "algo": settings.algo,
        "env": spec.id,
        "episodes": episodes,
        "deterministic": deterministic,
        "seed": seed,
        "interval_level": LEVEL,
        **summarise(returns, lengths, seed),
        **({} if costs is None else summarise_costs(costs, seed)),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "versions": versions(),
    }


def play_checkpoint(
    checkpoint: Checkpoint,
    settings: RunSettings,
    spec: EnvSpec,
    *,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    after_step: Callable[[], None] = lambda: None,
    show_bar: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the returns, lengths and costs of episodes with the policy of a checkpoint; see `play`.

    The random number generators of the caller are not changed.
    """
    generators = take_generators()
    env = make_env(spec, seed, min(episodes, MOST_ENVS), settings)
    try:
        predictor, env = load(checkpoint, settings, env, deterministic)
        return play(
            predictor,
            env,
            episodes,
            deterministic=deterministic,
            seed=seed,
            after_step=after_step,
            show_bar=show_bar,
        )
    finally:
        env.close()
        restore_generators(generators)


def evaluate_in_training(
    settings: RunSettings, content: Mapping[str, Any], after_step: Callable[[], None]
) -> tuple[float, float] | None:
    """Return the mean return and length of the policy in a checkpoint's content; None if an episode fails.

    All evaluations of a run play the same episodes, which are not those of the final evaluation.
    """
    try:
        returns, lengths, _ = play_checkpoint(
            (IN_TRAINING, dict(content)),
            settings,
            environment_spec(settings.env),
            episodes=EPISODES_IN_TRAINING,
            seed=FIRST_SEED_IN_TRAINING + settings.seed,
            after_step=after_step,
            show_bar=False,
        )
    except EvaluationError as error:
        show(f"an evaluation during the training failed: {error}", error=True)
        return None
    return float(np.mean(returns)), float(np.mean(lengths))


def load(
    checkpoint: Checkpoint, settings: RunSettings, env: VecEnv, deterministic: bool
) -> tuple[PolicyPredictor, VecEnv]:
    """Return what predicts with a run's policy, and `env` with the run's normaliser."""
    policy, env = restore_policy(checkpoint, settings, env)
    if masks_apply(policy, env, settings.hyperparameters):
        return MaskedPredictor(policy, env), env
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


def summarise_costs(costs: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the sums of costs (episodes, m), and their means with intervals."""
    result: dict[str, Any] = {"costs": costs.tolist()}
    for name, values in zip(cost_names(costs.shape[1]), costs.T, strict=True):
        interval = bootstrap_interval(mean, [values], generator=np.random.default_rng(seed), level=LEVEL)
        bounds = [float(bound) if np.isfinite(bound) else None for bound in (interval.low, interval.high)]
        result |= {
            f"mean_{name}": float(np.mean(values)),
            f"mean_{name}_interval": bounds,
            f"std_{name}": float(np.std(values)),
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
        env = make_env(spec, seed, 1, settings, wrap, render_mode="rgb_array")
        try:
            predictor, env = load(checkpoint, settings, env, deterministic)
            play(predictor, env, episodes, deterministic=deterministic, seed=seed)
        finally:
            video.close()
            env.close()
    return episodes, fps / every
