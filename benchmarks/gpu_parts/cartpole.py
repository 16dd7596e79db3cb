"""Agents on CartPole-v1 with the shipped settings, and callbacks that time their rollouts and updates."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import ALGORITHMS
from envs import make_vec_env
from gpu_parts.timing import synchronise

ENV = "CartPole-v1"
CONFIGS = Path(__file__).parents[2] / "configs"
SEED = 0
AGENTS = [algo for algo in ALGORITHMS if algo != "cpo"]  # the task reports no costs


def read_settings(algo: str) -> dict[str, Any]:
    """Return the shipped settings, including n_timesteps, n_envs and policy."""
    text = (CONFIGS / f"{algo}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)[ENV])


def make_agent(algo: str, device: torch.device | str, **changes: Any) -> OnPolicyAlgorithm:
    """Return an agent with the shipped settings and changes to them.

    All environments step in this process, so that the device is the only difference between two runs.
    """
    settings = read_settings(algo) | changes
    del settings["n_timesteps"]
    env = make_vec_env(ENV, settings.pop("n_envs"), seed=SEED, vec_env="dummy")
    return ALGORITHMS[algo](settings.pop("policy"), env, seed=SEED, device=device, **settings)


class Stopwatch(BaseCallback):
    """Time every rollout and every update, and run every update inside a context.

    Args:
        device: the device to wait for before reading the clock.
        around: maps the number of an update, 0 for the first, to the context to run it in.

    Attributes:
        rollouts: the seconds of every complete rollout.
        updates: the seconds of every update.
    """

    def __init__(
        self,
        device: torch.device,
        around: Callable[[int], AbstractContextManager[Any]] = lambda update: nullcontext(),
    ):
        super().__init__()
        self.rollouts: list[float] = []
        self.updates: list[float] = []
        self._device = device
        self._around = around
        self._context: ExitStack | None = None
        self._start = 0.0

    def _now(self) -> float:
        synchronise(self._device)
        return time.perf_counter()

    def _on_rollout_start(self) -> None:
        self.close()
        self._start = self._now()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        now = self._now()
        self.rollouts.append(now - self._start)
        self._context = ExitStack()
        self._context.enter_context(self._around(len(self.updates)))
        self._start = now

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """End the current update, if there is one."""
        if self._context is not None:
            self._context.close()
            self._context = None
            self.updates.append(self._now() - self._start)


def train(agent: OnPolicyAlgorithm, updates: int, stopwatch: Stopwatch, *callbacks: BaseCallback) -> None:
    """Train for a number of updates, or until a callback stops the training."""
    steps = updates * agent.n_steps * agent.n_envs
    try:
        agent.learn(steps, callback=[stopwatch, *callbacks], log_interval=None)
    finally:
        stopwatch.close()


@contextmanager
def thread_count(count: int | None) -> Iterator[None]:
    """Let torch use this many CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
