"""Part 8: training in tensor environments, which never leave the device."""

import inspect
import math
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import ALGORITHMS
from agents.policy.actor import unvalidated
from envs import make_vec_env
from gpu_parts.cartpole import AGENTS, ENV, SEED, Stopwatch, train
from gpu_parts.part import Part
from gpu_parts.timing import PeakMemory, release_memory, synchronise
from gpu_parts.training import THRESHOLD
from gpu_parts.updates import count_synchronisations

STEPS = 32  # per environment and update
N_ENVS = (1024, 4096, 16_384, 65_536)
SOLVED_N_ENVS = 4096
WARM_UPS, UPDATES, TIMED_UPDATES = 3, 8, 4
MOST_UPDATES = 150
DRY: dict[str, Any] = {"steps": 8, "n_envs": (8,), "solved": 16, "updates": 1, "horizon": 20}
SETTINGS: dict[str, Any] = {
    "critic_fit": "lbfgs",
    "n_critic_updates": 5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "critic_lambda": 1.0,
    "target_kl": 0.05,
    "cg_max_steps": 10,
    "sub_sampling_factor": 8,
    "policy_kwargs": {"normalize_observations": True, "normalize_returns": True},
}
# Whether the steps of rollouts, and the policy steps of NPG and TRPO, are replayed as CUDA graphs.
MODES = {"eager": False, "captured": True}
MILLION = 1e6


@dataclass(frozen=True)
class Size:
    """Sizes of a run."""

    n_envs: int
    n_steps: int

    @property
    def states(self) -> int:
        """The number of steps between two updates."""
        return self.n_envs * self.n_steps


def make_agent(part: Part, size: Size, capture: bool, algo: str = "trpo") -> Any:
    """Return an agent whose environments are tensors on the part's device."""
    env = make_vec_env(ENV, size.n_envs, seed=SEED, vec_env="tensor", env_kwargs={"device": str(part.device)})
    known = inspect.signature(ALGORITHMS[algo]).parameters
    settings = {name: value for name, value in SETTINGS.items() if name in known}
    agent: Any = ALGORITHMS[algo](
        "MlpPolicy", env, seed=SEED, device=part.device, n_steps=size.n_steps, **settings
    )
    agent.captured = capture
    return agent


def measure_tensor_envs(part: Part) -> None:
    """Measure speed by the number of environments, then a training run, then the other agents."""
    steps = DRY["steps"] if part.dry_run else STEPS
    sizes = [Size(n, steps) for n in (DRY["n_envs"] if part.dry_run else N_ENVS)]
    rows = [(size, mode) for size in sizes for mode in MODES]
    for position, (size, mode) in enumerate(rows):
        if part.out_of_time(f"{rows[position:]}, training, other agents"):
            return
        with part.attempt(f"{size.n_envs} environments, {mode}"):
            measure_speed(part, size, mode)
        release_memory(part.device)
    solved = Size(DRY["solved"] if part.dry_run else SOLVED_N_ENVS, steps)
    for mode in MODES:
        if part.out_of_time(f"training, {mode}"):
            return
        with part.attempt(f"training, {mode}"):
            measure_training(part, solved, mode)
    for algo in AGENTS:
        if part.out_of_time(f"{algo} and the agents after it"):
            return
        with part.attempt(algo):
            measure_agent(part, solved, algo)


def measure_speed(part: Part, size: Size, mode: str) -> None:
    """Add the speed of TRPO, end to end and of its parts, and what a rollout reads."""
    agent = make_agent(part, size, MODES[mode])
    with PeakMemory(part.device) as memory:
        agent.learn((1 if part.dry_run else WARM_UPS) * size.states, log_interval=None)
        seconds = time_learning(agent, size, 1 if part.dry_run else UPDATES)
    stopwatch = Stopwatch(part.device)
    train(agent, 1 + (1 if part.dry_run else TIMED_UPDATES), stopwatch)
    rollout, update = median(stopwatch.rollouts[1:]), median(stopwatch.updates[1:])
    counts = count_waits(agent)
    inside = sum(count for line, count in counts.items() if not line.startswith("npg/host.py"))
    part.add(
        "CartPole-v1 in tensor environments, TRPO",
        environments=size.n_envs,
        steps=size.n_steps,
        mode=mode,
        **{
            "million steps/s": size.states / seconds / MILLION,
            "rollout ms": 1e3 * rollout,
            "update ms": 1e3 * update,
            "million steps/s of the rollout": size.states / rollout / MILLION,
            "waits of a rollout": counts.total() if part.device.type == "cuda" else None,
            "of them not listed": inside if part.device.type == "cuda" else None,
            "step captured": captured_status(agent),
            "peak MiB": memory.mib,
        },
    )
    for line, count in counts.most_common():
        part.add("waits of a rollout", environments=size.n_envs, mode=mode, count=count, line=line)
    if inside:
        part.fail(f"a rollout of {size.n_envs} environments ({mode}) waits for the device {inside} times")


def time_learning(agent: Any, size: Size, updates: int) -> float:
    """Return the seconds per rollout and update, without waiting between them."""
    synchronise(agent.device)
    start = time.perf_counter()
    agent.learn(updates * size.states, log_interval=None, reset_num_timesteps=False)
    synchronise(agent.device)
    return (time.perf_counter() - start) / updates


def count_waits(agent: Any) -> Counter[str]:
    """Return for how many operations a rollout waits for the device, by line."""
    counts, callback = Counter[str](), agent._init_callback(None)
    with count_synchronisations(counts):
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return counts


def captured_status(agent: Any) -> str:
    """Return whether the steps of rollouts are replayed, or why not."""
    step = agent.rollout_buffer.stepper._step
    if not hasattr(step, "failure"):
        return "no"
    return step.failure or ("yes" if step.replays else "no")


class StopAtReturn(BaseCallback):
    """Evaluate before every rollout, in tensor environments of its own, and stop at the threshold.

    Attributes:
        mean_return: that of the last evaluation.
        seconds: the duration of all evaluations.
    """

    def __init__(self, part: Part, episodes: int):
        super().__init__()
        device = str(part.device)
        env: Any = make_vec_env(
            ENV, episodes, seed=SEED + 10_000, vec_env="tensor", env_kwargs={"device": device}
        )
        self.mean_return, self.seconds = math.nan, 0.0
        self._part, self._env = part, env.tensor_env
        self._horizon = DRY["horizon"] if part.dry_run else self._env.max_episode_steps

    @torch.no_grad()
    def evaluate(self) -> None:
        """Compute the mean return of one deterministic episode per environment."""
        start, policy = time.perf_counter(), self.model.policy
        observations = self._env.reset()
        alive = torch.ones(len(observations), device=observations.device)
        returns = torch.zeros_like(alive)
        with unvalidated():
            for _ in range(self._horizon):
                actions = policy.get_distribution(observations).mode()  # type: ignore[operator, union-attr]
                step = self._env.step(actions)
                returns += alive * step.rewards
                alive *= (~(step.terminated | step.truncated)).float()
                observations = step.observations
        self.mean_return = float(returns.mean())
        self.seconds += time.perf_counter() - start

    def _on_rollout_start(self) -> None:
        self.evaluate()

    def _on_step(self) -> bool:
        return self.mean_return < THRESHOLD and self._part.seconds_left > 0


def measure_training(part: Part, size: Size, mode: str) -> None:
    """Train TRPO until its deterministic return reaches the threshold."""
    agent = make_agent(part, size, MODES[mode])
    stopper = StopAtReturn(part, 4 if part.dry_run else 100)
    updates = DRY["updates"] if part.dry_run else MOST_UPDATES
    start = time.perf_counter()
    agent.learn(updates * size.states, stopper, log_interval=None)
    if not part.dry_run and stopper.mean_return < THRESHOLD and part.seconds_left > 0:
        stopper.evaluate()
    seconds = time.perf_counter() - start - stopper.seconds
    reached = stopper.mean_return >= THRESHOLD
    part.add(
        "training in tensor environments, TRPO",
        environments=size.n_envs,
        mode=mode,
        updates=agent._n_updates,
        steps=agent._n_updates * size.states,
        **{
            "training s": seconds,
            "evaluation s": stopper.seconds,
            "return": stopper.mean_return,
            "solved": "not required" if part.dry_run else reached,
        },
    )
    if not (part.dry_run or reached):
        part.fail(f"{mode}: return {stopper.mean_return:.0f} < {THRESHOLD:.0f} at the end")


def measure_agent(part: Part, size: Size, algo: str) -> None:
    """Add the speed of an agent with the settings of TRPO as far as it has them."""
    agent = make_agent(part, size, False, algo)
    agent.learn(size.states if part.dry_run else 2 * size.states, log_interval=None)
    seconds = time_learning(agent, size, 1 if part.dry_run else UPDATES)
    part.add(
        "every agent in tensor environments",
        agent=algo,
        environments=size.n_envs,
        accepted=agent.outcomes["accepted"],
        updates=agent._n_updates,
        **{"million steps/s": size.states / seconds / MILLION},
    )
