"""Part 4: updates and whole training runs of every agent, on the GPU and on the CPU."""

import math
import time
from statistics import median

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from envs import make_vec_env
from gpu_parts.cartpole import AGENTS, ENV, SEED, Stopwatch, make_agent, read_settings, thread_count, train
from gpu_parts.part import Part

THRESHOLD = 475.0
EVALUATE_EVERY = 2000  # at least this many steps
EPISODES = 20
DRY_UPDATES = 3
DRY_SETTINGS = {"n_envs": 4, "n_steps": 16, "batch_size": 64}


class StopAtReturn(BaseCallback):
    """Evaluate between updates, and stop the training at the threshold or at the end of the part's budget.

    Args:
        part: the running part.
        env: the evaluation environments.
        episodes: number of deterministic episodes per evaluation.

    Attributes:
        mean_return: the last evaluation's mean return; NaN before the first evaluation.
        seconds: total duration of the evaluations.
    """

    def __init__(self, part: Part, env: VecEnv, episodes: int):
        super().__init__()
        self.mean_return = math.nan
        self.seconds = 0.0
        self._part = part
        self._env = env
        self._episodes = episodes
        self._evaluated_at = 0

    def evaluate(self) -> None:
        """Evaluate the current policy."""
        start = time.perf_counter()
        with thread_count(1):  # more threads would only wait for each other
            returns, _ = evaluate_policy(self.model, self._env, self._episodes, deterministic=True)
        self.mean_return = float(returns)
        self._evaluated_at = self.num_timesteps
        self.seconds += time.perf_counter() - start

    @property
    def reached(self) -> bool:
        """Return whether the last evaluation reached the threshold."""
        return self.mean_return >= THRESHOLD

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._evaluated_at >= EVALUATE_EVERY and not self._part.dry_run:
            self.evaluate()

    def _on_step(self) -> bool:
        return not self.reached and self._part.seconds_left > 0

    def _on_training_end(self) -> None:
        if self._evaluated_at < self.num_timesteps and self._part.seconds_left > 0 and not self.reached:
            self.evaluate()


def measure_training(part: Part) -> None:
    """Train every agent to a deterministic return of 475 on every device."""
    places: list[tuple[torch.device, int | None]] = [(torch.device("cpu"), None), (torch.device("cpu"), 1)]
    if part.device.type == "cuda":
        places.insert(0, (part.device, None))
    runs = [(algo, *place) for algo in AGENTS for place in places]
    for position, (algo, device, threads) in enumerate(runs):
        if part.out_of_time(", ".join(f"{name} on {where}" for name, where, _ in runs[position:])):
            return
        with part.attempt(f"{algo} on {device}"), thread_count(threads):
            measure_run(part, algo, device)


def measure_run(part: Part, algo: str, device: torch.device) -> None:
    """Train one agent and add its row."""
    settings = read_settings(algo) | (DRY_SETTINGS if part.dry_run else {})
    agent = make_agent(algo, device, **settings)
    stopwatch = Stopwatch(device)
    evaluation_env = make_vec_env(ENV, 10, seed=SEED + 10_000, vec_env="dummy")
    stopper = StopAtReturn(part, evaluation_env, 1 if part.dry_run else EPISODES)
    updates = math.ceil(settings["n_timesteps"] / (agent.n_steps * agent.n_envs))
    start = time.perf_counter()
    train(agent, DRY_UPDATES if part.dry_run else updates, stopwatch, stopper)
    seconds = time.perf_counter() - start - stopper.seconds
    later = slice(1, None) if len(stopwatch.updates) > 1 else slice(None)  # the first includes initialisation
    part.add(
        ENV,
        agent=algo,
        device=str(device),
        threads=torch.get_num_threads(),
        batch=agent.n_steps * agent.n_envs,
        **{
            "update ms": 1e3 * median(stopwatch.updates[later]) if stopwatch.updates else None,
            "rollout ms": 1e3 * median(stopwatch.rollouts[later]) if stopwatch.rollouts else None,
            "updates": len(stopwatch.updates),
            "steps": agent.num_timesteps,
            "training s": seconds,
            "evaluation s": stopper.seconds,
            "return": stopper.mean_return,
            "solved": "not required" if part.dry_run else stopper.reached,
        },
    )
    evaluation_env.close()
    agent.env.close()
    if stopper.reached or part.dry_run:
        return
    if part.seconds_left > 0:
        part.fail(f"{algo} on {device}: return {stopper.mean_return:.0f} < {THRESHOLD:.0f} at the end")
    else:
        part.out_of_time(f"the rest of {algo} on {device}")
