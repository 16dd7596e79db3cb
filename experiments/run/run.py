"""One run: learn, keep what was learned however that ends, evaluate."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.base import PolicyGradientAgent
from agents.rollout.finite import NonFiniteError
from experiments.evaluation.seeded_episodes import check_ends
from experiments.progress import Progress, progress_bar
from experiments.run.checkpointing import Checkpointing, EnvironmentStates, restore
from experiments.run.checkpoints import Checkpoints
from experiments.run.clock import Clock
from experiments.run.run_folder import RunFolder
from experiments.run.run_log import RunLog
from experiments.run.stop_signals import Stopped, StopSignals

ROW = 256  # steps of all environments between two rows of a peer's log, where its rollouts are shorter


@dataclass(frozen=True)
class Outcome:
    """How learning ended.

    Attributes:
        code: the command's exit code; 0 is a finished run.
        seconds: spent learning, over all parts of a resumed run.
    """

    code: int
    seconds: float


def learn(
    agent: OnPolicyAlgorithm,
    document: Mapping[str, Any],
    folder: RunFolder,
    signals: StopSignals,
    *,
    envs: EnvironmentStates,
    looks: Sequence[BaseCallback] = (),
    content: Mapping[str, Any] | None = None,
) -> Outcome:
    """Learn, and save the model however that ends.

    Args:
        agent: untrained, on fresh environments.
        document: what config.yaml holds.
        folder: of the run.
        signals: that ask the run to stop.
        envs: takes and restores their state.
        looks: further callbacks.
        content: of the checkpoint that the run goes on from.

    Raises:
        ValueError: the content does not fit; the folder is as it was.
    """
    looks = list(looks)
    episodes_cut = restore(agent, envs, looks, content) if content is not None else 0
    log = RunLog(folder, content["log"] if content else None)
    agent.set_logger(log.logger)
    clock = Clock(content["seconds"] if content else 0.0)
    progress = Progress(document["n_timesteps"], f"{document['algo']} on {document['env']}")
    checkpointing = Checkpointing(
        Checkpoints(folder.checkpoints),
        run=document,
        log=log,
        clock=clock,
        every=document["checkpoint_every"],
        signals=signals,
        envs=envs,
        counted=looks,
    )
    if content is not None:
        folder.evaluation.unlink(missing_ok=True)
        folder.write_config(document)
        checkpointing.resume(content, log.logger, episodes_cut)
    code = 1
    try:
        agent.learn(
            max(document["n_timesteps"] - agent.num_timesteps, 0),
            [checkpointing, progress, clock, *looks],
            log_interval=log_interval(agent),
            reset_num_timesteps=content is None,
        )
        code = 0
    except Stopped as stopped:
        code = stopped.code
        print(f"\n{stopped}; go on with: {shlex.join(['python', 'train.py', '--resume', str(folder.path)])}")
    except (NonFiniteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        paths = Checkpoints(folder.checkpoints).paths()
        print(f"The last good checkpoint is {paths[0] if paths else 'none'}.", file=sys.stderr)
    finally:
        seconds = clock.seconds
        progress.close()
        # A full disk fails at these again.
        for path, save in (
            (folder.progress, log.logger.close),
            (folder.model, lambda: folder.save(agent)),
        ):
            try:
                save()
            except OSError as error:
                code = code or 1
                print(f"error: {path} could not be written: {error}", file=sys.stderr)
    return Outcome(code, seconds)


def log_interval(agent: OnPolicyAlgorithm) -> int:
    """Return the updates a row of the log: one for ours, as many as make `ROW` steps for SB3's A2C."""
    if isinstance(agent, PolicyGradientAgent):
        return 1
    return max(ROW // (agent.n_steps * agent.n_envs), 1)


def evaluate(
    agent: OnPolicyAlgorithm, env: VecEnv, folder: RunFolder, signals: StopSignals, episodes: int
) -> np.ndarray | None:
    """Return the returns of deterministic episodes, and write them down.

    Args:
        agent: what is evaluated.
        env: fresh environments, with the agent's normaliser where it has one.
        folder: of the run.
        signals: that ask the run to stop.
        episodes: 0 declares the run finished without any, and returns None.

    Raises:
        Stopped: the run was asked to; evaluate again when it is resumed.
        EndlessEpisodeError: see `check_ends`.
        NonFiniteError: a return is NaN or infinite; nothing is written, and the run not finished.
    """
    if episodes == 0:
        folder.write_evaluation({"steps": agent.num_timesteps, "returns": []})
        return None
    bar = progress_bar(episodes, "evaluation", "episode")

    def after_step(local: dict[str, Any], _: dict[str, Any]) -> None:
        bar.update(local["episode_counts"].sum() - bar.n)
        check_ends(local)
        if signals.asked:
            signals.stop()

    try:
        returns, lengths = evaluate_policy(
            agent, env, episodes, callback=after_step, return_episode_rewards=True
        )
        bar.update(episodes - bar.n)  # the last one ends after the last look
    finally:
        bar.close()
    if not np.isfinite(returns).all():
        raise NonFiniteError(
            f"{folder.path} is not finished: in its evaluation the environment gave rewards that sum up to "
            f"{returns}; mend it, and resume the run"
        )
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
