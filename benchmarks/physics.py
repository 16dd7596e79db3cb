"""The speed of MuJoCo's physics alone, an upper bound for training on it."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import gymnasium as gym
import mujoco
import numpy as np
from interleaved import Measure

PHYSICS_STEPS = 4  # per step of Hopper
MIN_HEIGHT, MAX_ANGLE = 0.7, 0.2  # metres, radians; beyond them Hopper-v5 ends an episode


@contextmanager
def hopper_physics(task: tuple[int, float]) -> Iterator[Measure]:
    """Step Hopper's physics for a number of seconds in parallel processes."""
    processes, seconds = task
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(steps_per_second, [0.01] * processes))  # starts all processes

        def measure_once() -> dict[str, float]:
            return {"steps_per_s": sum(pool.map(steps_per_second, [seconds] * processes))}

        yield measure_once


def steps_per_second(seconds: float) -> float:
    """Return the steps per second of one process.

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
            mujoco.mj_step(model, data, nstep=PHYSICS_STEPS)
            if data.qpos[1] < MIN_HEIGHT or abs(data.qpos[2]) > MAX_ANGLE:
                mujoco.mj_resetData(model, data)
        steps += len(controls)
    elapsed = time.perf_counter() - start
    env.close()
    return steps / elapsed
