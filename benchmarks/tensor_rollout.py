"""Compare training in tensor environments with EnvPool, with SB3's A2C and with sb3-contrib's TRPO, on a CPU.

    python benchmarks/tensor_rollout.py                                  # CartPole-v1
    python benchmarks/tensor_rollout.py --parts solve --rounds 5 --out tensor.json

Part "solve" trains TRPO with the settings of configs/trpo-tensor.yaml, and with those of configs/trpo.yaml in
Gymnasium's environments, until a deterministic evaluation (the mean of 40 episodes) reaches 475. It reports
the seconds of `learn()` without the evaluations, which are made before every rollout; a round is a seed.

Part "speed" measures the steps per second of `learn()`: in tensor environments with `FAST` settings, in
EnvPool with those of configs/trpo.yaml, SB3's A2C and sb3-contrib's TRPO with their defaults, each with
several numbers of environments and of torch's threads. Part "equal" gives all of them batches of the same
size and the same network; ours have equal settings in both kinds of environments.

Rounds are interleaved (see interleaved.py), and every configuration has a process of its own. A ratio is that
of the medians. Seconds of the process depend less on other load of the machine than seconds of the clock.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
import yaml
from interleaved import Measure, MeasureFactory, interleave
from measurement import Goal, Ratio, report
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import TRPO
from envs import make_vec_env

ENV = "CartPole-v1"
CONFIGS = Path(__file__).parents[1] / "configs"
THRESHOLD, EPISODES, EPISODE = 475.0, 40, 500
SMALL: dict[str, Any] = {"net_arch": [32]}
FAST: dict[str, Any] = {
    "batch_size": 8192,
    "n_critic_updates": 1,
    "cg_max_steps": 10,
    "sub_sampling_factor": 16,
    "target_kl": 0.03,
    "policy_kwargs": {"normalize_observations": True, "normalize_returns": True, **SMALL},
}
GOAL_OF_TIME, GOAL_OVER_ENVPOOL, GOAL_OVER_SB3 = 1 / 3, 5.0, 15.0


@dataclass(frozen=True)
class Arguments:
    """Measure."""

    parts: tuple[str, ...] = ("solve", "speed", "equal")
    rounds: int = 5
    seconds: float = 1.0
    """Least seconds of training per measurement of speed."""
    threads: tuple[int, ...] = (0, 1)
    """Numbers of torch's threads to try; 0 is torch's default."""
    tensor: tuple[int, ...] = (1024, 4096)
    """Numbers of tensor environments to try."""
    envpool: tuple[int, ...] = (8, 64, 256)
    a2c: tuple[int, ...] = (64, 256, 1024)
    contrib: tuple[int, ...] = (8, 64, 256)
    equal: int = 16_384
    """Steps per update in the part "equal"."""
    steps: int = 16
    """Steps per environment and update of the fast settings."""
    out: Path | None = None
    """Write the numbers into this JSON file."""


@dataclass(frozen=True)
class Candidate:
    """A way to train.

    Attributes:
        kind: "tensor", "envpool", "dummy" (ours), "a2c" or "contrib".
        n_envs: the number of environments.
        threads: torch's threads; 0 for the default.
        settings: arguments of the agent.
    """

    kind: str
    n_envs: int
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        threads = f", {self.threads} thread" if self.threads else ""
        return f"{self.kind} {self.n_envs} x {self.settings.get('n_steps', 'default')}{threads}"

    def make(self, seed: int = 0) -> Any:
        """Return the agent."""
        algorithm: Any = TRPO
        if self.kind in ("a2c", "contrib"):
            env: Any = sb3_make_vec_env(
                lambda: gym.make(ENV), self.n_envs, seed=seed, vec_env_cls=DummyVecEnv
            )
            if self.kind == "contrib":
                import sb3_contrib
            algorithm = A2C if self.kind == "a2c" else sb3_contrib.TRPO
        else:
            kwargs = {"device": "cpu"} if self.kind == "tensor" else None
            env = make_vec_env(ENV, self.n_envs, seed=seed, vec_env=self.kind, env_kwargs=kwargs)
        return algorithm("MlpPolicy", env, seed=seed, device="cpu", **self.settings)


def shipped(name: str) -> dict[str, Any]:
    """Return the settings of CartPole in a file of configs/."""
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))[ENV])


class StopAtReturn(BaseCallback):
    """Evaluate before every rollout, and stop at the threshold.

    Attributes:
        seconds: duration of the evaluations, of the clock and of the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = np.zeros(2)
        self.mean_return = math.nan

    def _on_rollout_start(self) -> None:
        start = now()
        self.mean_return = evaluate(self.model.policy)
        self.seconds += now() - start

    def _on_step(self) -> bool:
        return self.mean_return < THRESHOLD


def now() -> np.ndarray:
    """Return the seconds of the clock and of the process."""
    return np.array([time.perf_counter(), time.process_time()])


def evaluate(policy: Any) -> float:
    """Return the mean return of deterministic episodes in Gymnasium's own vectorised CartPole."""
    env: Any = gym.make_vec(ENV, EPISODES, vectorization_mode="vector_entry_point")
    observations, _ = env.reset(seed=10_000)
    alive, returns = np.ones(EPISODES, dtype=bool), np.zeros(EPISODES)
    while alive.any():
        actions, _ = policy.predict(observations, deterministic=True)
        observations, _, terminated, truncated, _ = env.step(actions)
        returns += alive
        alive &= ~(terminated | truncated)
    env.close()
    return float(returns.mean())


@contextmanager
def solving(candidate: Candidate) -> Iterator[Measure]:
    """Train a new agent, with a seed of its own, until its return reaches the threshold."""
    settings = dict(candidate.settings)
    steps, seed = settings.pop("n_timesteps"), -1
    settings.pop("n_envs")
    settings.pop("policy")

    def measure_once() -> dict[str, float]:
        nonlocal seed
        seed += 1
        agent = Candidate(candidate.kind, candidate.n_envs, 0, settings).make(max(seed - 1, 0))
        stopper, start = StopAtReturn(), now()
        agent.learn(10 * steps, stopper, log_interval=None)
        clock, process = now() - start - stopper.seconds
        agent.env.close()
        return {
            "seconds": clock,
            "process_s": process,
            "steps": agent.num_timesteps,
            "return": stopper.mean_return,
        }

    yield measure_once


@contextmanager
def training(task: tuple[Candidate, float]) -> Iterator[Measure]:
    """Train one agent further and further."""
    candidate, least = task
    agent = candidate.make()
    agent.learn(2 * agent.n_steps * agent.n_envs, log_interval=None)

    def measure_once() -> dict[str, float]:
        start, steps = now(), 0
        while now()[0] - start[0] < least:
            agent.learn(2 * agent.n_steps * agent.n_envs, log_interval=None, reset_num_timesteps=False)
            steps += 2 * agent.n_steps * agent.n_envs
        clock, process = now() - start
        return {"steps_per_s": steps / clock, "steps_per_process_s": steps / process}

    yield measure_once
    agent.env.close()


def measure_solving(arguments: Arguments) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Return the table of the seconds to the threshold, and the goal."""
    candidates = {
        "tensor": Candidate("tensor", shipped("trpo-tensor")["n_envs"], 1, shipped("trpo-tensor")),
        "default": Candidate("dummy", shipped("trpo")["n_envs"], 1, shipped("trpo")),
    }
    results, _ = interleave(
        {name: (solving, c, c.threads) for name, c in candidates.items()}, arguments.rounds
    )
    rows, goals = [], []
    for name, rounds in results.items():
        columns = {key: [r[key] for r in rounds] for key in rounds[0]}
        rows.append(
            {
                "settings": name,
                "environments": candidates[name].n_envs,
                "median s": median(columns["seconds"]),
                "median process s": median(columns["process_s"]),
                "longest process s": max(columns["process_s"]),
                "median steps": median(columns["steps"]),
                "solved": sum(r >= THRESHOLD for r in columns["return"]),
                "of": len(rounds),
            }
        )
    if len(results) == 2:
        for key, text in (("seconds", "of the clock"), ("process_s", "of the process")):
            ratio = Ratio.between(*([r[key] for r in results[name]] for name in ("tensor", "default")))
            goals.append(
                Goal(f"seconds {text} to {THRESHOLD:.0f}", ratio.of_medians, GOAL_OF_TIME, at_most=True)
            )
    return rows, goals


def fast_candidates(arguments: Arguments) -> list[Candidate]:
    """Return the candidates of the part "speed"."""
    ours = shipped("trpo")
    pool = {name: ours[name] for name in ours if name not in ("n_timesteps", "n_envs", "policy")}
    fast = FAST | {"n_steps": arguments.steps}
    return [
        Candidate(kind, n, threads, settings)
        for kind, numbers, settings in (
            ("tensor", arguments.tensor, fast),
            ("envpool", arguments.envpool, pool),
            ("a2c", arguments.a2c, {}),
        )
        for n in numbers
        for threads in arguments.threads
    ] + [
        Candidate("contrib", n, threads, {"n_steps": max(2048 // n, 8)})
        for n in arguments.contrib
        for threads in arguments.threads
    ]


def equal_candidates(arguments: Arguments) -> list[Candidate]:
    """Return the candidates of the part "equal"."""
    numbers = {"tensor": arguments.tensor, "envpool": arguments.tensor, "a2c": arguments.a2c}
    numbers["contrib"] = arguments.contrib
    return [
        Candidate(kind, n, threads, settings | {"n_steps": max(arguments.equal // n, 1)})
        for kind in numbers
        for settings in [FAST if kind in ("tensor", "envpool") else {"policy_kwargs": SMALL}]
        for n in numbers[kind]
        for threads in arguments.threads
    ]


def measure_speed(
    arguments: Arguments, candidates: list[Candidate]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Return the table, and {kind: its highest median speed by clock and by process}."""
    measurements: dict[str, tuple[MeasureFactory, Any, int]] = {
        str(c): (training, (c, arguments.seconds), c.threads) for c in candidates
    }
    results, _ = interleave(measurements, arguments.rounds)
    rows, best = [], dict[str, dict[str, float]]()
    for candidate in candidates:
        if (rounds := results.get(str(candidate))) is None:
            continue
        found = {key: median(r[key] for r in rounds) for key in rounds[0]}
        rows.append({"configuration": str(candidate), **found})
        kind = best.setdefault(candidate.kind, found)
        best[candidate.kind] = {key: max(kind[key], found[key]) for key in found}
    return rows, best


def goals_of(best: dict[str, dict[str, float]], heading: str) -> list[Goal]:
    """Return the goals of our speed in tensor environments over that of the others at their best."""
    bounds = {"envpool": GOAL_OVER_ENVPOOL, "a2c": GOAL_OVER_SB3, "contrib": GOAL_OVER_SB3}
    return [
        Goal(f"{heading}, tensor over {kind}, {key}", best["tensor"][key] / best[kind][key], bound)
        for kind, bound in bounds.items()
        if kind in best and "tensor" in best
        for key in best[kind]
    ]


def main(arguments: Arguments) -> None:
    """Measure, and print the tables."""
    sections: dict[str, list[dict[str, Any]]] = {}
    goals: list[Goal] = []
    if "solve" in arguments.parts:
        sections[f"Training to {THRESHOLD:.0f}, {ENV}"], found = measure_solving(arguments)
        goals += found
    for part, candidates in (("speed", fast_candidates), ("equal", equal_candidates)):
        if part in arguments.parts:
            heading = f"Steps per second of learn(), {ENV}, {part}"
            sections[heading], best = measure_speed(arguments, candidates(arguments))
            goals += goals_of(best, part)
    report("tensor_rollout", arguments, sections, goals)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
