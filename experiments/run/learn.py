"""Train an agent with logs and checkpoints, and save the model even if training fails."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.base import PolicyGradientAgent
from experiments.failure import describe_failure, setup_errors
from experiments.geometry import GeometryCallback
from experiments.progress import Progress
from experiments.run.agent_state import take_callbacks
from experiments.run.checkpointing import Checkpointing, restore
from experiments.run.checkpoints import Checkpoints
from experiments.run.clock import Clock
from experiments.run.periodic_evaluation import PeriodicEvaluation, Play
from experiments.run.rank_state import content_for, ranks_of
from experiments.run.run_folder import RunFolder
from experiments.run.run_log import RowWriter, RunLog
from experiments.run.stop_signals import Stopped, StopSignals
from experiments.settings.run_settings import RunSettings
from experiments.settings.wrapping import make_callbacks
from experiments.terminal import show

ROW = 256  # steps per row of the log of an SB3 agent with shorter rollouts, over all environments


def learn(
    agent: OnPolicyAlgorithm,
    settings: RunSettings,
    document: Mapping[str, Any],
    folder: RunFolder,
    signals: StopSignals,
    play: Play,
    content: Mapping[str, Any] | None = None,
    tracker: RowWriter | None = None,
) -> tuple[int, float]:
    """Train, and save the model even if training fails.

    Args:
        agent: an untrained agent with new environments.
        settings: the run's settings.
        document: the settings as config.yaml and checkpoints store them.
        folder: the run folder.
        signals: the signals that request a stop.
        play: plays the episodes of an evaluation during training.
        content: content of the checkpoint to resume from; None for a new run.
        tracker: also receives the rows of the log.

    Returns:
        The command's exit code, which is 0 if all steps were made, and the seconds of training, including
        those before the run was resumed.

    Raises:
        OSError: a log or config.yaml cannot be written.
        ValueError: the content does not fit; the folder is unchanged.
    """
    ranks = ranks_of(agent)
    content = None if content is None else content_for(agent, content)
    if ranks.rank > 0:
        return follow(agent, settings, signals, play, content), 0.0
    callbacks: list[BaseCallback] = [GeometryCallback(settings.geometry)] if settings.geometry else []
    with setup_errors("the setting callback"):
        callbacks += make_callbacks(settings)
    episodes_cut = restore(agent, callbacks, content) if content is not None else 0
    log = RunLog(folder, content["log"] if content else None, document)
    if tracker is not None:
        log.add(tracker)
    agent.set_logger(log.logger)
    clock = Clock(content["seconds"] if content else 0.0)
    progress = Progress(settings.n_timesteps, f"{settings.algo} on {settings.env}")
    checkpointing = Checkpointing(
        Checkpoints(folder.checkpoints),
        take_rest=lambda: {
            "run": document,
            "callbacks": take_callbacks(callbacks),
            "log": log.position(),
            "seconds": clock.seconds,
        },
        every=settings.checkpoint_every,
        signals=signals,
        evaluated=settings.eval_every > 0,
    )
    every = settings.eval_every
    evaluating = [PeriodicEvaluation(every, play, checkpointing, clock)] if every else []
    if content is not None:
        folder.evaluation.unlink(missing_ok=True)
        folder.write_config(document)
        checkpointing.resume(content, log.logger, episodes_cut)
    code = 1
    try:
        agent.learn(
            max(settings.n_timesteps - agent.num_timesteps, 0),
            [checkpointing, *evaluating, progress, clock, *callbacks],
            log_interval=log_interval(agent),
            reset_num_timesteps=content is None,
        )
        code = 0
    except Stopped as stopped:
        code = stopped.code
        show(f"\n{stopped}; the run can be resumed")
    except (Exception, SystemExit) as error:  # raised by an environment, a user's own class or the system
        show(describe_failure(error, f"at step {agent.num_timesteps}"), error=True)
        paths = Checkpoints(folder.checkpoints).paths()
        show(f"The last good checkpoint is {paths[0] if paths else 'none'}.", error=True)
    finally:
        seconds = clock.seconds
        progress.close()
        # If the disk is full, these fail again.
        saves = (folder.progress, log.logger.close), (folder.model, lambda: folder.save(agent))
        for path, save in saves:
            try:
                save()
            except OSError as error:
                code = code or 1
                show(f"error: {path} could not be written: {error}", error=True)
    return code, seconds


def follow(
    agent: OnPolicyAlgorithm,
    settings: RunSettings,
    signals: StopSignals,
    play: Play,
    content: Mapping[str, Any] | None = None,
) -> int:
    """Train on a rank that writes nothing, and return its exit code; see `learn`."""
    checkpointing = Checkpointing(None, take_rest=dict, every=settings.checkpoint_every, signals=signals)
    every = settings.eval_every
    evaluating = [PeriodicEvaluation(every, play, checkpointing, None)] if every else []
    agent.set_logger(Logger(None, []))
    if content is not None:
        checkpointing.resume(content, agent.logger, restore(agent, [], content))
    try:
        agent.learn(
            max(settings.n_timesteps - agent.num_timesteps, 0),
            [checkpointing, *evaluating],
            log_interval=log_interval(agent),
            reset_num_timesteps=content is None,
        )
        return 0
    except Stopped as stopped:
        return stopped.code
    except (Exception, SystemExit) as error:
        rank = ranks_of(agent).rank
        show(describe_failure(error, f"on rank {rank} at step {agent.num_timesteps}"), error=True)
        return 1


def log_interval(agent: OnPolicyAlgorithm) -> int:
    """Return the number of updates per row of the log: 1 for our agents, about `ROW` steps for SB3's A2C."""
    if isinstance(agent, PolicyGradientAgent):
        return 1
    return max(ROW // (agent.n_steps * agent.n_envs), 1)
