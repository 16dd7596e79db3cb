"""Products with the Fisher matrix of an SB3 policy: ours and sb3-contrib's."""

import copy
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium as gym
import numpy as np
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import kl_divergence
from torch import Tensor

from agents.policy.actor import PolicyActor
from npg import Damped, ExactFisher, SurrogateObjective

DAMPING = 0.1  # sb3-contrib's default, on its KL


class SpacesEnv(gym.Env):
    """An environment that has only spaces, and cannot be stepped."""

    def __init__(self, observations: int, actions: int):
        self.observation_space = spaces.Box(-np.inf, np.inf, (observations,))
        self.action_space = spaces.Box(-1, 1, (actions,))


@dataclass(frozen=True)
class Problem:
    """A network and a number of states.

    Attributes:
        network: sizes of the layers from observation to action, e.g. "11-64-64-3".
        states: the number of states.
        device: where the products are computed.
        micro_batch_size: our operator's micro-batch; None for none.
    """

    network: str
    states: int
    device: str = "cpu"
    micro_batch_size: int | None = None

    @property
    def layers(self) -> list[int]:
        """Return the layers' sizes."""
        return [int(size) for size in self.network.split("-")]

    @property
    def actions(self) -> int:
        """Return the dimensions of an action."""
        return self.layers[-1]

    def policy(self) -> sb3_contrib.TRPO:
        """Return sb3-contrib's agent, whose policy both operators read."""
        observations, *hidden, actions = self.layers
        return sb3_contrib.TRPO(
            "MlpPolicy",
            SpacesEnv(observations, actions),
            policy_kwargs={"net_arch": hidden},
            cg_damping=DAMPING,
            seed=0,
            device=self.device,
        )

    def observations(self) -> Tensor:
        """Return normally distributed observations."""
        source = torch.Generator(self.device).manual_seed(1)
        return torch.randn(self.states, self.layers[0], generator=source, device=self.device)

    def vector(self, agent: sb3_contrib.TRPO) -> Tensor:
        """Return a vector to multiply."""
        size = sum(p.numel() for p in PolicyActor(agent.policy).parameters())
        source = torch.Generator(self.device).manual_seed(2)
        return torch.randn(size, generator=source, device=self.device)


def build_ours(problem: Problem, agent: sb3_contrib.TRPO, observations: Tensor) -> Callable[[Tensor], Tensor]:
    """Compute the gradient and build our operator."""
    actor = PolicyActor(agent.policy)
    with torch.no_grad():
        distribution = actor(observations)
        actions = distribution.mean.clone()
        log_prob = distribution.log_prob(actions)
    advantages = torch.ones_like(log_prob)
    if problem.micro_batch_size is None:  # the surrogate has no micro-batches
        SurrogateObjective(actor, observations, actions, advantages, old_log_prob=log_prob).gradient()
    fisher = ExactFisher(actor, observations, micro_batch_size=problem.micro_batch_size)
    return Damped(fisher, DAMPING * problem.actions).matvec


def build_sb3_contrib(
    problem: Problem, agent: sb3_contrib.TRPO, observations: Tensor
) -> Callable[[Tensor], Tensor]:
    """Build sb3-contrib's operator with its own methods, in the order of its `train`."""
    policy = agent.policy
    with torch.no_grad():
        old = copy.copy(policy.get_distribution(observations))
        actions = old.mode()
        log_prob = old.log_prob(actions)
    distribution = policy.get_distribution(observations)
    ratio = torch.exp(distribution.log_prob(actions) - log_prob)
    objective = (torch.ones_like(log_prob) * ratio).mean()
    kl = kl_divergence(distribution, old).mean()
    parameters, _, gradient, _ = agent._compute_actor_grad(kl, objective)
    return partial(agent.hessian_vector_product, parameters, gradient)


BUILDERS = {"sb3-contrib": build_sb3_contrib, "ours": build_ours}


def peak_bytes(pipe: Connection, problem: Problem, library: str) -> None:
    """Send the bytes of memory that building and a product take; runs in a new process."""
    agent = problem.policy()
    observations, vector = problem.observations(), problem.vector(agent)
    small = Problem(problem.network, 256, problem.device)
    BUILDERS[library](small, agent, observations[:256])(vector)  # loads libraries and starts threads
    before = resident(problem.device, restart=True)
    product = BUILDERS[library](problem, agent, observations)
    product(vector)
    pipe.send(resident(problem.device) - before)


def resident(device: str, *, restart: bool = False) -> int:
    """Return the peak memory in bytes; with `restart`, reset the peak and return the current memory."""
    if device.startswith("cuda"):
        if not restart:
            return torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux, or not permitted
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    key = "VmRSS:" if restart else "VmHWM:"
    line = next(line for line in status.splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
