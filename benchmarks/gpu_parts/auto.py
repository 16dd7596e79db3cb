"""Part 6: the device that `device="auto"` chooses, and whether it is the faster one."""

import time
from statistics import median
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.device import faster_device
from gpu_parts.cartpole import Stopwatch, make_agent, train
from gpu_parts.part import Part

ALGO = "trpo"
UPDATES = 4
# (width of the hidden layers, environments, steps per environment), from small to large.
SIZES = [(64, 8, 128), (256, 64, 64), (256, 64, 256), (1024, 64, 256)]
DRY_SIZES = [(16, 2, 16), (32, 4, 16)]


class StopAtDeadline(BaseCallback):
    """Stop the training at the end of the part's budget, but only after two complete updates."""

    def __init__(self, part: Part, stopwatch: Stopwatch):
        super().__init__()
        self._part = part
        self._stopwatch = stopwatch

    def _on_step(self) -> bool:
        return self._part.seconds_left > 0 or len(self._stopwatch.updates) < 2


def measure_choice(part: Part) -> None:
    """Compare the choice with the measured times of rollout and update, from small to large networks."""
    sizes = DRY_SIZES if part.dry_run else SIZES
    if part.device.type != "cuda":
        part.note('no CUDA device: "auto" is the CPU, and both columns of times are the CPU\'s')
    for position, (width, n_envs, n_steps) in enumerate(sizes):
        if part.out_of_time(f"(width, n_envs, n_steps) {sizes[position:]}"):
            return
        with part.attempt(f"width {width}, {n_envs * n_steps} states"):
            compare_devices(part, width, n_envs, n_steps)


def compare_devices(part: Part, width: int, n_envs: int, n_steps: int) -> None:
    """Make the choice twice, train on both devices and add a row."""
    settings = {
        "n_envs": n_envs,
        "n_steps": n_steps,
        "policy_kwargs": {"net_arch": [width, width], "normalize_observations": True},
    }
    start = time.perf_counter()
    chosen = make_agent(ALGO, "auto", **settings).device.type
    construction = time.perf_counter() - start
    again = faster_device(make_agent(ALGO, part.device, **settings).policy, n_envs, n_steps).type
    here = measure_iteration(part, part.device, settings)
    cpu = measure_iteration(part, torch.device("cpu"), settings)
    faster = part.device.type if here < cpu else "cpu"
    part.add(
        "device=auto",
        width=width,
        states=n_envs * n_steps,
        chosen=chosen,
        again=again,
        **{
            "construction s": construction,
            "device s": here,
            "CPU s": cpu,
            "faster": faster,
            "chose the faster": chosen == faster,
        },
    )


def measure_iteration(part: Part, device: torch.device, settings: dict[str, Any]) -> float:
    """Return the median seconds of a rollout and its update, without the first pair."""
    agent = make_agent(ALGO, device, **settings)
    stopwatch = Stopwatch(device)
    train(agent, UPDATES, stopwatch, StopAtDeadline(part, stopwatch))
    agent.env.close()
    pairs = list(zip(stopwatch.rollouts, stopwatch.updates, strict=False))
    return median(rollout + update for rollout, update in pairs[1:])
