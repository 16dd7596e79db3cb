"""One run: learn, keep what was learned however that ends, evaluate."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.clock import Clock
from agents.configuration import Configuration
from agents.progress import Progress, progress_bar
from agents.rollouts import NonFiniteError
from agents.run_folder import RunFolder

CHECKPOINTS = 5
INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


@dataclass(frozen=True)
class Outcome:
    """How learning ended.

    Attributes:
        code: the command's exit code; 0 is a finished run.
        seconds: spent learning.
    """

    code: int
    seconds: float


def learn(
    agent: OnPolicyAlgorithm,
    configuration: Configuration,
    folder: RunFolder,
    *,
    description: str,
    callbacks: Iterable[BaseCallback] = (),
) -> Outcome:
    """Learn, and save the model however that ends."""
    every = max(configuration.n_timesteps // (CHECKPOINTS * configuration.n_envs), 1)
    checkpoint = CheckpointCallback(
        every, str(folder.checkpoints), name_prefix="model", save_vecnormalize=configuration.normalize
    )
    progress = Progress(configuration.n_timesteps, description)
    clock = Clock()
    code = 0
    try:
        agent.learn(configuration.n_timesteps, [checkpoint, progress, clock, *callbacks])
    except KeyboardInterrupt:
        code = INTERRUPTED
    except NonFiniteError as error:
        code = 1
        message = error
    finally:
        seconds = clock.seconds
        progress.close()
        folder.save(agent)
        agent.logger.close()
    if code == INTERRUPTED:
        print("\ninterrupted; the model as it is now is saved")
    elif code:
        print(f"error: {message} The model up to there is saved.", file=sys.stderr)
    return Outcome(code, seconds)


def evaluate(agent: OnPolicyAlgorithm, env: VecEnv, folder: RunFolder, episodes: int) -> np.ndarray | None:
    """Return the returns of deterministic episodes, and write them down; None if interrupted.

    Args:
        agent: what is evaluated.
        env: fresh environments, with the agent's normaliser where it has one.
        folder: of the run.
        episodes: 0 declares the run finished without any.
    """
    if episodes == 0:
        folder.write_evaluation({"steps": agent.num_timesteps, "returns": []})
        return None
    bar = progress_bar(episodes, "evaluation", "episode")
    try:
        returns, lengths = evaluate_policy(
            agent,
            env,
            episodes,
            callback=lambda local, _: bar.update(local["episode_counts"].sum() - bar.n),
            return_episode_rewards=True,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the model is saved, without an evaluation")
        return None
    finally:
        bar.close()
    folder.write_evaluation(
        {
            "steps": agent.num_timesteps,
            "deterministic": True,
            "mean_return": float(np.mean(returns)),
            "std_return": float(np.std(returns)),
            "returns": returns,
            "lengths": lengths,
        }
    )
    return np.asarray(returns)
