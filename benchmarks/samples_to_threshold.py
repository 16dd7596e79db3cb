"""Count the samples that equally tuned algorithms need to reach a return.

    python benchmarks/samples_to_threshold.py                  # VPG and NPG to 475 on CartPole-v1
    python benchmarks/samples_to_threshold.py --algos acktr a2c

Every algorithm has a grid of the same size: three values of the setting that determines its step, times three
batch sizes. The grid is searched on the tuning seeds; the setting with the best mean is then run on other
seeds, which are reported. Every 1000 steps, a run is evaluated on 20 deterministic episodes; its number of
samples is the one at which an evaluation first reaches the threshold, or the whole budget if none does. "a2c"
is SB3's, with its defaults, on the same number of environments.
"""

import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from scipy.stats import trim_mean
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import ALGORITHMS
from envs import make_vec_env
from experiments.settings.arguments import Arguments as Train
from experiments.settings.configuration import resolve
from experiments.settings.provenance import versions

EVALUATE_EVERY = 1000
STEP_LENGTHS: dict[str, dict[str, list[float]]] = {
    "vpg": {"learning_rate": [0.003, 0.01, 0.03]},
    "npg": {"target_kl": [0.01, 0.03, 0.1]},
    "trpo": {"target_kl": [0.01, 0.03, 0.1]},
    "acktr": {"learning_rate": [0.1, 0.3, 1.0]},
    "a2c": {"learning_rate": [0.0007, 0.002, 0.006]},
}
BATCHES = {"n_steps": [32, 64, 128]}
PEER_BATCHES = {"n_steps": [5, 16, 64]}  # around SB3's default of 5


@dataclass(frozen=True)
class Arguments:
    """Count the samples to a threshold."""

    algos: tuple[str, ...] = ("vpg", "npg")
    env: str = "CartPole-v1"
    threshold: float = 475
    budget: int = 100_000
    tuning_seeds: int = 5
    seeds: int = 5
    jobs: int = 2
    out: Path | None = None
    """Write the numbers into this JSON file."""


def samples_to_threshold(arguments: Arguments, algo: str, setting: dict[str, Any], seed: int) -> int:
    """Return the number of samples that one run needs."""
    torch.set_num_threads(1)
    ours = resolve(Train(algo=(algo if algo in ALGORITHMS else "vpg",), env=(arguments.env,)))
    env = make_vec_env(arguments.env, ours.n_envs, seed=seed)
    check = EvalCallback(
        make_vec_env(arguments.env, 10, seed=10_000 + seed),
        callback_on_new_best=StopTrainingOnRewardThreshold(arguments.threshold),
        n_eval_episodes=20,
        eval_freq=EVALUATE_EVERY // ours.n_envs,
        verbose=0,
    )
    agent: OnPolicyAlgorithm
    if algo == "a2c":
        agent = A2C(ours.policy, env, seed=seed, device="cpu", **setting)
    else:
        agent = ALGORITHMS[algo](
            ours.policy, env, seed=seed, device="cpu", **{**ours.hyperparameters, **setting}
        )
    agent.learn(arguments.budget, check, log_interval=None)
    return agent.num_timesteps if check.best_mean_reward >= arguments.threshold else arguments.budget


def main(arguments: Arguments) -> None:
    """Tune, run the best settings, and print a table."""
    results = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for algo in arguments.algos:
            axes = STEP_LENGTHS[algo] | (BATCHES if algo in ALGORITHMS else PEER_BATCHES)
            grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
            tuning_seeds = range(1000, 1000 + arguments.tuning_seeds)
            run = partial(samples_to_threshold, arguments, algo)
            tuning = [list(pool.map(partial(run, setting), tuning_seeds)) for setting in grid]
            for setting, counts in zip(grid, tuning, strict=True):
                print(f"  {algo} {setting}: {counts}", flush=True)
            best = min(zip(grid, tuning, strict=True), key=lambda pair: sum(pair[1]))[0]
            counts = list(pool.map(partial(run, best), range(arguments.seeds)))
            iqm = float(trim_mean(counts, 0.25))
            results[algo] = {"setting": best, "samples": counts, "median": median(counts), "iqm": iqm}
            print(f"{algo}: {best}, samples {counts}, median {median(counts):.0f}, IQM {iqm:.0f}", flush=True)
    if arguments.out is not None:
        document = {"arguments": str(arguments), "versions": versions(), "results": results}
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
