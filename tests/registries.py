"""The registries to which a test may add."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from agents.critic import CRITICS
from agents.hyperparameters import RANGES
from agents.natural_gradient import FISHERS
from agents.policy.distributions import HEADS
from agents.policy.policies import POLICIES
from agents.registry import ALGORITHMS, REGISTRY
from envs.factory import VEC_ENVS
from envs.tensor.registry import TENSOR_ENVS

REGISTRIES: tuple[dict[str, Any], ...] = (
    *(ALGORITHMS, REGISTRY, CRITICS, FISHERS, HEADS, POLICIES, RANGES),
    *(VEC_ENVS, TENSOR_ENVS, gym.registry),
)


@contextmanager
def restored_registries() -> Iterator[None]:
    """Remove what is registered inside the block."""
    before = [dict(registry) for registry in REGISTRIES]
    try:
        yield
    finally:
        for registry, content in zip(REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(content)
