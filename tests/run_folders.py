"""Run folders whose numbers are written down by the test, and checkpoints of agents."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from envs.state.vec_env_checkpointer import VecEnvCheckpointer
from experiments.run.agent_state import take_agent
from experiments.run.checkpoint_file import write
from experiments.run.checkpoints import Checkpoints
from experiments.run.generators import take_generators

# Every key of a config.yaml but an algorithm's, a task's and a policy's.
CONFIG = {
    "seed": 0,
    "device": "cpu",
    "vec_env": "dummy",
    "evaluation_episodes": 100,
    "geometry": 0,
    "checkpoint_every": 10,
    "n_timesteps": 1000,
    "n_envs": 1,
}


def write_checkpoint(run: Path, agent: OnPolicyAlgorithm, score: float | None = None) -> Path:
    """Write what train.py saves of an agent, trained or not, and return the checkpoint's path."""
    if not hasattr(agent, "_logger"):
        agent.set_logger(Logger(None, []))
    if agent._last_episode_starts is None:
        agent._last_episode_starts = np.ones(agent.n_envs, bool)
    content = {
        "run": {},
        "callbacks": [],
        "log": {"csv": {"rows": 0, "columns": 0}, "events": {}},
        "seconds": 0.0,
        "agent": take_agent(agent),
        "envs": VecEnvCheckpointer().take(agent.env),
        "updates": 0,
        "generators": take_generators(),
    }
    return Checkpoints(run / "checkpoints").save(content, step=agent.num_timesteps, score=score)


def change_checkpoint(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a run's only checkpoint."""
    path, content = Checkpoints(run / "checkpoints").newest_valid()
    change(content)
    write(path, {"score": None, "content": content})


def write_run(
    root: Path,
    algo: str = "npg",
    seed: int = 0,
    *,
    env: str = "CartPole-v1",
    returns: Sequence[float] = (10.0, 20.0, 30.0),
    steps: Sequence[int] | None = None,
    evaluation: Sequence[float] = (40.0, 60.0),
    costs: Any = None,
    metrics: Mapping[str, Sequence[float]] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write what train.py leaves of a finished run, and return its folder.

    Args:
        root: holds <env>/<algo>/seed-<n>/.
        algo: its name.
        seed: of the run.
        env: the environment's id.
        returns: of progress.csv, a row each.
        steps: of the rows, 1000, 2000, … by default; a row takes a second and a half.
        evaluation: returns of the evaluation.
        costs: of its episodes, a list each; none by default.
        metrics: more columns.
        hyperparameters: other than a learning rate and a target_kl.
        versions: of packages, over the usual ones.
        settings: other keys of config.yaml.
    """
    folder = root / env / algo.replace(":", "-") / f"seed-{seed}"
    folder.mkdir(parents=True)
    steps = steps or [1000 * (k + 1) for k in range(len(returns))]
    config = {
        "algo": algo,
        "env": env,
        "seed": seed,
        "device": "cpu",
        "n_timesteps": steps[-1],
        "policy": "MlpPolicy",
        "n_envs": 8,
        "normalize": False,
        "hyperparameters": {"learning_rate": 0.001, "target_kl": 0.01} | dict(hyperparameters or {}),
        "versions": {"python": "3.11.7", "gymnasium": "1.4.0", "torch": "2.13.0"} | dict(versions or {}),
        "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
    } | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    columns = {
        "time/total_timesteps": steps,
        "rollout/ep_rew_mean": returns,
        "time/seconds": [1.5 * (k + 1) for k in range(len(returns))],
    } | dict(metrics or {})
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    document = {"steps": steps[-1], "deterministic": True, "returns": list(evaluation)}
    document |= {} if costs is None else {"costs": costs}
    (folder / "evaluation.json").write_text(json.dumps(document))
    return folder
