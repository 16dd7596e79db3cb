"""Choose the device that trains a policy faster."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.policy.actor import PolicyActor, example_observations
from npg import ExactFisher

# The cost of an update in products with the Fisher matrix: those of conjugate gradient, and as much again.
PRODUCTS = 30
REPETITIONS = 5


def faster_device(policy: ActorCriticPolicy, n_envs: int, n_steps: int) -> torch.device:
    """Return the policy's device, or the CPU if a rollout and its update are faster there.

    For small networks kernel-launch overhead dominates on a GPU, so measure.

    Args:
        policy: a policy on its device; a copy is timed on the CPU.
        n_envs: observations per step.
        n_steps: steps per rollout.
    """
    cpu = torch.device("cpu")
    there = seconds(policy, n_envs, n_steps)
    return cpu if seconds(copy.deepcopy(policy).to(cpu), n_envs, n_steps) < there else policy.device


def seconds(policy: ActorCriticPolicy, n_envs: int, n_steps: int) -> float:
    """Estimate the seconds that a policy takes for the actions of a rollout and the products of an update."""
    few = example_observations(policy, n_envs)
    all_of_them = example_observations(policy, n_envs * n_steps, n_steps)
    fisher = ExactFisher(PolicyActor(policy), all_of_them)
    vector = torch.ones(fisher.size, dtype=fisher.dtype, device=fisher.device)

    @torch.no_grad()
    def act() -> Any:
        return policy.get_distribution(few).mode().cpu()

    return n_steps * median_seconds(act) + PRODUCTS * median_seconds(lambda: (fisher @ vector).cpu())


def median_seconds(work: Callable[[], Any]) -> float:
    """Return the median duration in seconds of `work`, which must wait for its own result."""
    work()
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
