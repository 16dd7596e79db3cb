"""MuJoCo's bare physics: the floor under everything that trains on it."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import gymnasium as gym
import mujoco
import numpy as np
from contestants import Turn

FRAMES = 4  # of physics in a step of Hopper
LOWEST, LEAN = 0.7, 0.2  # where Hopper-v5 ends an episode: metres, radians


@contextmanager
def hopper_physics(task: tuple[int, float]) -> Iterator[Turn]:
    """Step Hopper's physics for some seconds in some processes side by side."""
    processes, seconds = task
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(steps_per_second, [0.01] * processes))  # starts all processes

        def turn() -> dict[str, float]:
            return {"steps_per_s": sum(pool.map(steps_per_second, [seconds] * processes))}

        yield turn


def steps_per_second(seconds: float) -> float:
    """Return how many steps a second one process makes.

    The controls are those of an untrained policy, and an episode ends where Hopper's does, so that the
    contacts are those of training.
    """
    env = gym.make("Hopper-v5")
    model, data = env.unwrapped.model, env.unwrapped.data
    controls = np.random.default_rng(0).standard_normal((1000, model.nu)).clip(-1, 1)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for control in controls:
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=FRAMES)
            if data.qpos[1] < LOWEST or abs(data.qpos[2]) > LEAN:
                mujoco.mj_resetData(model, data)
        steps += len(controls)
    elapsed = time.perf_counter() - start
    env.close()
    return steps / elapsed
