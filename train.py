"""Train an agent on a Gymnasium task.

    python train.py                                            # TRPO on CartPole-v1, to solved
    python train.py --algo npg --env Hopper-v5 --steps 1e6 --seed 3
    python train.py --algo trpo --env Hopper-v5 --set target_kl=0.02 cg_damping=0.05

Settings come from configs/<algo>.yaml: the environment's section, or `default`. --config names another
file, --set changes single settings: any argument of the agent's constructor, n_envs or normalize; of
policy_kwargs, those keys that are given.

A run writes runs/<env>/<algo>/seed-<n>/: config.yaml (all settings, and the versions that produced the run),
progress.csv and TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl where observations are
normalised, and evaluation.json. Ctrl-C saves the model and ends the run.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents import ALGORITHMS, NonFiniteError
from agents.base import PolicyGradientAgent
from agents.configuration import Configuration
from agents.geometry import GeometryCallback
from agents.hyperparameters import nearest
from agents.progress import Progress, progress_bar
from agents.run_folder import RunFolder
from envs import choose_vec_env, make_vec_env
from envs.factory import environment_spec

CONFIGS = Path(__file__).parent / "configs"
CHECKPOINTS = 5
# What a setting that makes no sense raises, here, in SB3 or in a user's policy, before training starts.
SETUP_ERRORS = (ValueError, TypeError, AssertionError, ImportError, OSError, NotImplementedError)
INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


@dataclass(frozen=True)
class Arguments:
    """Train an agent on a Gymnasium task."""

    algo: str = "trpo"
    """vpg, npg, trpo or acktr."""
    env: str = "CartPole-v1"
    """A Gymnasium environment."""
    steps: float | None = None
    """Environment steps; the configuration's by default."""
    seed: int = 0
    """Of policy, environments and sampling."""
    config: Path | None = None
    """A YAML file in RL Zoo's format, in place of configs/<algo>.yaml."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings to change, name=value each; repeatable."""
    out: Path = Path("runs")
    """Where run folders are made."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    n_envs: int | None = None
    """Environments side by side; the configuration's by default."""
    vec_env: str = "auto"
    """How they run: dummy (in this process), workers (one process a core), subproc (one each), envpool, or
    auto, which times a step and takes the faster of the first two."""
    episodes: int = 100
    """Of the final deterministic evaluation; 0 for none."""
    geometry: int = 0
    """Updates from one look at the Fisher matrix to the next, logged under npg/geometry; 0 for none."""


def main(arguments: Arguments) -> int:
    """Run it all and return the exit code."""
    # Networks this small gain little from more, and lose much where other programs keep the cores busy.
    torch.set_num_threads(1)
    try:
        configuration, folder = prepare(arguments)
        env = make_env(arguments, configuration)
        agent = make_agent(arguments, configuration, env)
        aside = folder.create()
    except SETUP_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    if aside is not None:
        print(f"an unfinished run was in the way; it is now {aside}")
    folder.write_config(
        configuration, algo=arguments.algo, env=arguments.env, seed=arguments.seed, device=str(agent.device)
    )
    agent.set_logger(configure(str(folder.path), ["csv", "tensorboard"]))
    code, seconds = train(agent, configuration, folder, arguments)
    returns = evaluate(arguments, configuration, folder, agent) if code == 0 else None
    env.close()
    print_summary(arguments, folder, agent, seconds, returns)
    return code


def prepare(arguments: Arguments) -> tuple[Configuration, RunFolder]:
    """Resolve the run without building anything, so that a mistake costs no time."""
    if arguments.algo not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {arguments.algo!r}{nearest(arguments.algo, ALGORITHMS)}")
    if min(arguments.episodes, arguments.seed, arguments.geometry) < 0:
        raise ValueError(
            f"expected --episodes ≥ 0, --seed ≥ 0 and --geometry ≥ 0, "
            f"got {arguments.episodes}, {arguments.seed} and {arguments.geometry}"
        )
    if arguments.device not in ("auto", "cpu") and not arguments.device.startswith("cuda"):
        raise ValueError(f"--device must be cpu, cuda or auto, got {arguments.device!r}")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {arguments.device} needs a CUDA device, and torch sees none; use --device cpu"
        )
    environment_spec(arguments.env)
    path = arguments.config or CONFIGS / f"{arguments.algo}.yaml"
    overrides = [text for group in arguments.set for text in group]
    configuration = Configuration.read(path, arguments.env, ALGORITHMS[arguments.algo], overrides)
    configuration = configuration.with_run(n_timesteps=arguments.steps, n_envs=arguments.n_envs)
    folder = RunFolder(arguments.out, arguments.env, arguments.algo, arguments.seed)
    folder.check_free()
    return configuration, folder


def make_env(arguments: Arguments, configuration: Configuration) -> VecEnv:
    """Build the training environments."""
    vec_env = arguments.vec_env
    if vec_env == "auto":
        choice = choose_vec_env(arguments.env, configuration.n_envs)
        print(f"vec_env: {choice}")
        vec_env = choice.vec_env
    env = make_vec_env(arguments.env, configuration.n_envs, seed=arguments.seed, vec_env=vec_env)
    if configuration.normalize:
        return VecNormalize(env, gamma=configuration.hyperparameters["gamma"])
    return env


def make_agent(arguments: Arguments, configuration: Configuration, env: VecEnv) -> PolicyGradientAgent:
    """Build the agent."""
    return ALGORITHMS[arguments.algo](
        configuration.policy,
        env,
        seed=arguments.seed,
        device=arguments.device,
        **configuration.hyperparameters,
    )


def train(
    agent: PolicyGradientAgent, configuration: Configuration, folder: RunFolder, arguments: Arguments
) -> tuple[int, float]:
    """Learn, save the model however that ends, and return exit code and seconds."""
    every = max(configuration.n_timesteps // (CHECKPOINTS * configuration.n_envs), 1)
    checkpoint = CheckpointCallback(
        every, str(folder.checkpoints), name_prefix="model", save_vecnormalize=configuration.normalize
    )
    progress = Progress(configuration.n_timesteps, f"{arguments.algo} on {arguments.env}")
    looks = [GeometryCallback(arguments.geometry)] if arguments.geometry else []
    code, start = 0, time.perf_counter()
    try:
        agent.learn(configuration.n_timesteps, [checkpoint, progress, *looks])
    except KeyboardInterrupt:
        code = INTERRUPTED
    except NonFiniteError as error:
        code = 1
        message = error
    finally:
        seconds = time.perf_counter() - start
        progress.close()
        agent.save(folder.model)
        if (normaliser := agent.get_vec_normalize_env()) is not None:
            normaliser.save(str(folder.normaliser))
        agent.logger.close()
    if code == INTERRUPTED:
        print("\ninterrupted; the model as it is now is saved")
    elif code:
        print(f"error: {message} The model up to there is saved.", file=sys.stderr)
    return code, seconds


def evaluate(
    arguments: Arguments, configuration: Configuration, folder: RunFolder, agent: PolicyGradientAgent
) -> np.ndarray | None:
    """Return the returns of deterministic episodes on fresh environments; None if interrupted."""
    if arguments.episodes == 0:
        folder.write_evaluation({"steps": agent.num_timesteps, "returns": []})
        return None
    n_envs, seed = min(arguments.episodes, 16), arguments.seed + 10_000
    env = make_vec_env(arguments.env, n_envs, seed=seed, vec_env="dummy")
    if configuration.normalize:
        env = VecNormalize.load(str(folder.normaliser), env)
        env.training = env.norm_reward = False
    bar = progress_bar(arguments.episodes, "evaluation", "episode")
    try:
        returns, lengths = evaluate_policy(
            agent,
            env,
            arguments.episodes,
            callback=lambda local, _: bar.update(local["episode_counts"].sum() - bar.n),
            return_episode_rewards=True,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the model is saved, without an evaluation")
        return None
    finally:
        bar.close()
        env.close()
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


def print_summary(
    arguments: Arguments,
    folder: RunFolder,
    agent: PolicyGradientAgent,
    seconds: float,
    returns: np.ndarray | None,
) -> None:
    """Say what came out, where it lies, and what to try next."""
    steps = agent.num_timesteps
    print(f"\n{arguments.algo.upper()} on {arguments.env}, seed {arguments.seed}")
    if returns is not None:
        threshold = environment_spec(arguments.env).reward_threshold
        verdict = ""
        if threshold is not None:
            solved = "solved" if returns.mean() >= threshold else "not yet solved"
            verdict = f" ({solved}: the task asks for {threshold:g})"
        print(
            f"  return   {returns.mean():.1f} ± {returns.std():.1f} "
            f"over {len(returns)} deterministic episodes{verdict}"
        )
    print(f"  trained  {steps} steps in {seconds:.1f} s, {steps / max(seconds, 1e-9):.0f} steps/s")
    print(f"  files    {folder.path}")
    print(f"  curves   tensorboard --logdir {folder.path.parent.parent}")
    options = f"--env {arguments.env}"
    if arguments.out != Arguments.out:
        options += f" --out {arguments.out}"
    other = next(name for name in ALGORITHMS if name != arguments.algo)
    print(f"  next     python train.py --algo {arguments.algo} {options} --seed {arguments.seed + 1}")
    print(f"           python train.py --algo {other} {options}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
