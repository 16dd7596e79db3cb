"""All algorithms that can be compared: ours, SB3's and sb3-contrib's."""

import importlib
import math
from collections.abc import Mapping
from typing import Any, cast

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from agents import ALGORITHMS
from agents.hyperparameters import nearest

PEERS = {
    "sb3:ppo": "stable_baselines3.PPO",
    "sb3:a2c": "stable_baselines3.A2C",
    "contrib:trpo": "sb3_contrib.TRPO",
}


def names() -> tuple[str, ...]:
    """Return the names of all algorithms, including registered ones."""
    return (*ALGORITHMS, *PEERS)


def agent_class(name: str) -> type[OnPolicyAlgorithm]:
    """Return the class of a named algorithm.

    Raises:
        ValueError: there is no such name.
        ImportError: the class is sb3-contrib's, which is not installed.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in PEERS:
        raise ValueError(f"unknown algorithm {name!r}{nearest(name, names())}")
    package, _, class_name = PEERS[name].rpartition(".")
    try:
        return cast(type[OnPolicyAlgorithm], getattr(importlib.import_module(package), class_name))
    except ImportError:  # sb3-contrib is an extra
        raise ImportError(
            f"{name} needs sb3-contrib; install it with: pip install -c constraints.txt sb3-contrib"
        ) from None


def folder_name(name: str) -> str:
    """Return a name for files and folders: sb3-ppo for "sb3:ppo"."""
    return name.replace(":", "-")


def with_schedule(value: Any) -> Any:
    """Return RL Zoo's "lin_0.001" as a schedule that falls from 0.001 to 0; anything else as it is.

    Raises:
        ValueError: what follows lin_ is no number.
    """
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    try:
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    except ValueError:
        raise ValueError(f"expected a schedule such as lin_0.001, got {value!r}") from None


def joint_target_kl(name: str, hyperparameters: Mapping[str, Any], actions: spaces.Space) -> float | None:
    """Return the bound on the KL, joint over action dimensions, in nats; None if there is none.

    sb3-contrib's is averaged over the dimensions of a `Box` or a `MultiBinary` space.
    """
    bound = hyperparameters.get("target_kl")
    if name.startswith("sb3:") or not isinstance(bound, int | float):
        return None
    if name == "contrib:trpo" and isinstance(actions, spaces.Box | spaces.MultiBinary):
        bound *= math.prod(actions.shape)
    return float(bound)
