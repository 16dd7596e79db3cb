"""Faults that a run can be given, by name, and the environments that have some."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Stateful(CartPoleEnv):
    """A user's own environment: it gives its state, and is slow while a file is there."""

    def get_state(self) -> Any:
        """Return what the next step reads."""
        return self.state if self.state is None else [float(x) for x in self.state]

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self.state = state if state is None else tuple(state)

    def step(self, action: Any) -> Any:
        """Take a step, of half a second where the file is."""
        if Path(os.environ.get("SLOW", "/nowhere")).exists():
            time.sleep(0.5)
        return super().step(action)


class Stateless(CartPoleEnv):
    """A user's own environment, whose state is its own affair."""


for name in ("Stateful", "Stateless"):
    gym.register(f"{name}-v0", f"faults.injection:{name}", max_episode_steps=100)


def arm(faults: list[list[Any]]) -> None:
    """Bring about the faults, [name, argument, …] each."""
    for name, *arguments in faults:
        FAULTS[name](*arguments)


def full_log(row: int) -> None:
    """Let the disk be full when that row is written: /dev/full takes nothing."""
    from experiments.run.csv_log import CsvLog

    before(CsvLog, "write", row, lambda log: os.dup2(full(), log._file.fileno()))


def full_events(row: int) -> None:
    """Let the disk be full when TensorBoard's thread writes."""
    from stable_baselines3.common.logger import TensorBoardOutputFormat
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def append(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before(TensorBoardOutputFormat, "write", row, lambda _: setattr(LocalFileSystem, "append", append))


def full_checkpoint(number: int) -> None:
    """Let the disk be full when that checkpoint's bytes are synced."""
    from experiments.run import checkpoint_file

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    before(checkpoint_file, "replacing", number, lambda _: on_checkpoint_sync(fail))


def dead_worker(update: int) -> None:
    """Kill the first worker while that update is made."""
    from agents.base import PolicyGradientAgent

    def kill(agent: PolicyGradientAgent) -> None:
        worker = agent.env.unwrapped._pool.workers[0]
        os.kill(worker._pid, signal.SIGKILL)
        time.sleep(0.1)

    before(PolicyGradientAgent, "train", update, kill)


def slow_checkpoint(seconds: float) -> None:
    """Let every checkpoint's write take longer, when its bytes are there and its name is not."""
    on_checkpoint_sync(lambda _: time.sleep(seconds))


def on_checkpoint_sync(work: Callable[[int], None]) -> None:
    """Do something before a checkpoint's bytes are synced, with their descriptor."""
    from experiments.run import atomic_file

    fsync = os.fsync

    def worked(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".ckpt"):
            work(descriptor)
        fsync(descriptor)

    atomic_file.os = type("os", (), vars(os) | {"fsync": staticmethod(worked)})


def version(package: str, number: str) -> None:
    """Say that a package has another version."""
    import experiments.settings.run_settings

    versions = experiments.settings.run_settings.versions
    experiments.settings.run_settings.versions = lambda: versions() | {package: number}


def before(owner: Any, attribute: str, call: int, work: Callable[..., object]) -> None:
    """Do something before a function's n-th call, counted from 1, with its first argument."""
    function, count = getattr(owner, attribute), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            work(args[0])
        return function(*args, **kwargs)

    setattr(owner, attribute, counted)


def full() -> int:
    """Return a file on a full disk."""
    return os.open("/dev/full", os.O_WRONLY)


FAULTS = {
    function.__name__: function
    for function in (
        full_log,
        full_events,
        full_checkpoint,
        dead_worker,
        slow_checkpoint,
        version,
    )
}
