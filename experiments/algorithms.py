"""All algorithms that can be compared: ours, SB3's and sb3-contrib's."""

import importlib
import math
from collections.abc import Mapping
from typing import Any, cast

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule

from agents import ALGORITHMS
from agents.hyperparameters import nearest
from agents.policy.names import find_class, with_classes
from experiments.extras import needs

PEERS = {
    "sb3:ppo": "stable_baselines3.PPO",
    "sb3:a2c": "stable_baselines3.A2C",
    "contrib:trpo": "sb3_contrib.TRPO",
}


def names() -> tuple[str, ...]:
    """Return the names of all algorithms, including registered ones."""
    return (*ALGORITHMS, *PEERS)


def agent_class(name: str) -> type[OnPolicyAlgorithm]:
    """Return the class of a registered algorithm, of one of `PEERS`, or of "module:Class".

    Raises:
        ValueError: the name is unknown, or the module was not imported.
        ImportError: the algorithm needs sb3-contrib, which is not installed.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in PEERS:
        if ":" in name and not name.startswith(("sb3:", "contrib:")):
            return find_class(name, OnPolicyAlgorithm)
        raise ValueError(f"unknown algorithm {name!r}{nearest(name, names())}")
    package, _, class_name = PEERS[name].rpartition(".")
    with needs(package="sb3-contrib"):
        return cast(type[OnPolicyAlgorithm], getattr(importlib.import_module(package), class_name))


def policy_class(algorithm: type[OnPolicyAlgorithm], name: str) -> type[Any]:
    """Return the class of one of the algorithm's own policies, or of "module:Class".

    Raises:
        ValueError: the name is unknown, or the module was not imported.
    """
    if name in algorithm.policy_aliases:
        return algorithm.policy_aliases[name]
    if ":" in name:
        return find_class(name, ActorCriticPolicy)
    raise ValueError(f"unknown policy {name!r}{nearest(name, algorithm.policy_aliases)}")


def own_modules(*names: str) -> set[str]:
    """Return the modules in the names of a user's own classes and environments, e.g. in "module:Class"."""
    return {name.rpartition(":")[0] for name in names if ":" in name and name not in PEERS}


def configured_as(name: str) -> str:
    """Return the algorithm whose settings file is used: for "module:Class", that of a registered base class.

    Raises:
        ValueError: see `agent_class`.
    """
    if name in names() or ":" not in name:
        return name
    registered = {agent: own for own, agent in ALGORITHMS.items()}
    bases = [registered[base] for base in agent_class(name).__mro__ if base in registered]
    return bases[0] if bases else name


def folder_name(name: str) -> str:
    """Return a name for files and folders, e.g. "sb3-ppo" for "sb3:ppo"."""
    return name.replace(":", "-").replace("/", "-")


def with_schedule(value: Any) -> Any:
    """Return RL Zoo's "lin_0.001" as a schedule that falls from 0.001 to 0; anything else unchanged.

    In a dict, i.e. in policy_kwargs, names of classes are replaced by the classes.

    Raises:
        ValueError: the text after ``lin_`` is not a number.
    """
    if isinstance(value, dict):
        return with_classes(value)
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    try:
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    except ValueError:
        raise ValueError(f"expected a schedule such as lin_0.001, got {value!r}") from None


def joint_target_kl(name: str, hyperparameters: Mapping[str, Any], actions: spaces.Space) -> float | None:
    """Return the bound on the KL, joint over action dimensions, in nats; None if there is none.

    sb3-contrib's TRPO bounds the KL's mean over the dimensions of a `Box` or a `MultiBinary` space, so its
    bound is multiplied by their number.
    """
    bound = hyperparameters.get("target_kl")
    if name.startswith("sb3:") or not isinstance(bound, int | float):
        return None
    if name == "contrib:trpo" and isinstance(actions, spaces.Box | spaces.MultiBinary):
        bound *= math.prod(actions.shape)
    return float(bound)
