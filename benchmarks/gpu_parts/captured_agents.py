"""Agents of part 7: training with captured steps compared with training without."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from agents import ALGORITHMS
from envs import make_vec_env
from gpu_parts.cartpole import SEED, Stopwatch, make_agent, train
from gpu_parts.part import Part
from gpu_parts.timing import synchronise
from gpu_parts.training import DRY_SETTINGS
from gpu_parts.updates import count_synchronisations

MOST_DIFFERENCE = 1e-4  # of two policies after one update; the critic's fit amplifies rounding
UPDATES, COUNTED_UPDATE = 6, 3


def agents() -> dict[str, dict[str, Any]]:
    """Return the agents to train: {name: options of `make`}."""
    normalised = {"normalize_observations": True, "normalize_returns": True}
    return {
        "trpo, CartPole": {"algo": "trpo"},
        "npg, CartPole": {"algo": "npg"},
        "trpo, Pendulum, normalised": {"algo": "trpo", "env": "Pendulum-v1", "policy_kwargs": normalised},
        "npg, Pendulum, gSDE": {"algo": "npg", "env": "Pendulum-v1", "use_sde": True},
    }


def make(algo: str, device: torch.device, env: str | None = None, **options: Any) -> OnPolicyAlgorithm:
    """Return an agent on CartPole with the shipped settings, or on another environment."""
    if env is None:
        return make_agent(algo, device, **options)
    vec_env = make_vec_env(env, options.pop("n_envs", 8), seed=SEED, vec_env="dummy")
    options = {"n_steps": 128, "critic_fit": "lbfgs", "policy_kwargs": {}} | options
    return ALGORITHMS[algo]("MlpPolicy", vec_env, seed=SEED, device=device, **options)


def compare_agents(part: Part, name: str, **options: Any) -> None:
    """Train with and without captures from one seed; compare times and policies."""
    runs = {}
    options = options | (DRY_SETTINGS if part.dry_run else {})
    for captured in (False, True):
        agent = make(device=part.device, captured=captured, **options)
        steps: list[float] = []
        agent.policy_step = timed(agent.policy_step, part.device, steps)  # type: ignore[attr-defined]
        counts = Counter[str]()

        def context(update: int, counts: Counter[str] = counts) -> AbstractContextManager[Any]:
            return count_synchronisations(counts) if update == COUNTED_UPDATE else nullcontext()

        train(agent, 1, Stopwatch(part.device))
        first = policy_vector(agent)
        watch = Stopwatch(part.device, context)
        train(agent, 2 if part.dry_run else UPDATES, watch)
        agent.env.close()
        runs[captured] = (steps, watch.updates, counts.total(), first, policy_vector(agent))
    (eager, eager_updates, eager_reads, *theirs), (ours, updates, reads, *own) = runs[False], runs[True]
    differences = [float((a - b).abs().max()) for a, b in zip(own, theirs, strict=True)]
    part.add(
        "agents",
        agent=name,
        **{
            "eager: step ms": 1e3 * median(eager[1:]),
            "captured: step ms": 1e3 * median(ours[1:]),
            "captured: first step s": ours[0],
            "eager: update ms": 1e3 * median(eager_updates),
            "captured: update ms": 1e3 * median(updates),
            "eager: synchronisations": eager_reads,
            "captured: synchronisations": reads,
            "difference after 1 update": differences[0],
            "and at the end": differences[1],
        },
    )
    captures = agent._captures  # type: ignore[attr-defined]
    if part.device.type == "cuda" and (captures is None or captures[1].failure is not None):
        part.fail(f"{name}: not captured: {captures and captures[1].failure}")
    if not differences[0] <= MOST_DIFFERENCE:
        part.fail(f"{name}: after one update the policies differ by {differences[0]:.2g}")


def timed(function: Callable[..., Any], device: torch.device, seconds: list[float]) -> Callable[..., Any]:
    """Return the function with a clock that appends the duration of every call."""

    def run(*arguments: Any) -> Any:
        synchronise(device)
        start = time.perf_counter()
        result = function(*arguments)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        return result

    return run


def policy_vector(agent: OnPolicyAlgorithm) -> Tensor:
    """Return all parameters of the policy, critic included."""
    return torch.cat([p.detach().double().reshape(-1) for p in agent.policy.parameters()])
