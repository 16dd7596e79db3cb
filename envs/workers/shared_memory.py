"""The arrays of a step, in memory that several processes see and that has no name."""

import mmap
import os
import tempfile
from collections.abc import Hashable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.util import obs_space_info

_CACHE_LINE = 64  # bytes


def allocate(size: int) -> int:
    """Returns the descriptor of `size` zeroed bytes to share.

    They are in no file system, and gone when the last process that holds them is, however that
    process ended: a crash leaves nothing in /dev/shm.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("rollout")
    else:  # not on Linux
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


class StepArrays:
    """What a vector environment reads and writes in a step, for all environments.

    Args:
        num_envs: n, the first dimension of each array.
        observation_space: Of one environment, as `DummyVecEnv` supports it.
        action_space: The same; without a shape its actions are not shared.
        descriptor: Of the block of another process; None allocates one. The arrays keep their memory
            alive, the descriptor may be closed.

    Attributes:
        descriptor: To hand to another process.
        rewards: (n,) of float32.
        dones: (n,) of bool.
        actions: (n, ...) of the space's dtype, or None.
        observations: Two slots, so that one keeps the last while the other takes the next; each maps a
            key of `obs_space_info` to (n, ...).
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        descriptor: int | None = None,
    ) -> None:
        keys, shapes, dtypes = obs_space_info(observation_space)
        layout: dict[Hashable, tuple[tuple[int, ...], Any]] = {
            "rewards": ((), np.float32),
            "dones": ((), np.bool),
        }
        if action_space.shape is not None:
            layout["actions"] = action_space.shape, action_space.dtype
        for key in keys:
            for slot in (0, 1):
                layout[slot, key] = shapes[key], dtypes[key]
        ends = [0]
        for shape, dtype in layout.values():
            size = num_envs * int(np.prod(shape)) * np.dtype(dtype).itemsize
            ends.append(ends[-1] + -(-size // _CACHE_LINE) * _CACHE_LINE)
        self.descriptor = allocate(ends[-1]) if descriptor is None else descriptor
        block = mmap.mmap(self.descriptor, ends[-1])
        arrays: dict[Hashable, NDArray[Any]] = {
            name: np.ndarray((num_envs, *shape), dtype, block, offset)
            for (name, (shape, dtype)), offset in zip(layout.items(), ends, strict=False)
        }
        self.rewards, self.dones, self.actions = arrays["rewards"], arrays["dones"], arrays.get("actions")
        self.observations = [{key: arrays[slot, key] for key in keys} for slot in (0, 1)]
