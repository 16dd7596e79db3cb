"""The arrays of a step, in anonymous memory shared by several processes."""

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
    """Return a file descriptor of `size` zeroed bytes to share.

    They have no name in a file system, and are freed when the last process that maps them ends, even by a
    crash: nothing is left in /dev/shm.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("rollout")
    else:  # not on Linux
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


class StepArrays:
    """The arrays that a vector environment reads and writes in a step, for all environments.

    Args:
        num_envs: n, the first dimension of each array.
        observation_space: One environment's observation space, as `DummyVecEnv` supports it.
        action_space: One environment's action space; actions of a space without a shape are not shared.
        descriptor: The descriptor of another process's memory; None allocates memory. The arrays keep the
            memory mapped, so the descriptor may be closed.

    Attributes:
        descriptor: The memory's descriptor, for another process to map.
        rewards: (n,), float32.
        dones: (n,), bool.
        actions: (n, ...) of the space's dtype, or None.
        begun: When each worker called the environment that it is in, in the seconds of `time.monotonic`;
            (n,), float64. A worker writes only the entry of its first environment.
        observations: Two buffers, so that one keeps the last observations while the next are written to
            the other; each maps a key of `obs_space_info` to an array (n, ...).
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
            "begun": ((), np.float64),
        }
        if action_space.shape is not None:
            layout["actions"] = action_space.shape, action_space.dtype
        for key in keys:
            for buffer in (0, 1):
                layout[buffer, key] = shapes[key], dtypes[key]
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
        self.begun = arrays["begun"]
        self.observations = [{key: arrays[buffer, key] for key in keys} for buffer in (0, 1)]
