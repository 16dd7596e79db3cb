"""Check the content of a run's checkpoint, which may be untrusted even if the file is intact."""

import math
import random
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor
from torch.optim import Optimizer

from experiments.run.plain_yaml import check_plain

LARGEST = 2**53  # largest counter, and largest time in seconds
LONGEST = 1_000  # characters of a logged number

# The meaning of a type in an example; see `check_like`.
KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    object: ("anything", lambda value: True),
    int: ("a count", lambda value: type(value) is int and 0 <= value <= LARGEST),
    float: ("a number", lambda value: is_number(value)),
    str: ("a short text", lambda value: isinstance(value, str) and len(value) <= LONGEST),
    Tensor: ("a tensor", lambda value: isinstance(value, Tensor)),
    np.ndarray: ("a row of values", lambda value: isinstance(value, np.ndarray) and value.ndim == 1),
}
CONTENT = {
    "run": {},
    "callbacks": [{...: int}],
    "log": {"csv": {"rows": int, "columns": int}, "events": {...: int}},
    "seconds": float,
    "agent": {
        "parameters": {"policy": {...: Tensor}},
        "moving": {
            **{"num_timesteps": int, "_n_updates": int, "_episode_num": int},
            **{"_current_progress_remaining": float, "_last_obs": object, "_last_episode_starts": np.ndarray},
        },
        "episodes": [{"r": float, "l": float, "t": float}],
        "successes": [float],
        "logged": {...: str},
        "noise": {...: Tensor},
        "averaged": {...: int},
        "excluded": {...: [str]},
    },
    "envs": {},
    "updates": int,
    "generators": {"python": object, "numpy": object, "torch": object, "cuda": [Tensor]},
}


# What `experiments.run.rank_state` takes of every rank but the first.
PART = {
    "moving": {"_last_obs": object, "_last_episode_starts": np.ndarray},
    "noise": {...: Tensor},
    "envs": {},
    "generators": CONTENT["generators"],
}


def check_content(content: Any) -> None:
    """Check everything that does not depend on the agent.

    Raises:
        ValueError: something is missing or has another type.
    """
    check_like(content, CONTENT, "a checkpoint")
    check_plain(content["run"])
    require(0 <= content["seconds"] <= LARGEST, "seconds", "at least 0")
    check_like(content.get("ranks", []), [PART], "ranks")
    agent = content["agent"]
    same = agent["excluded"].keys() == agent["logged"].keys()
    require(same, "agent.excluded", "as many names as agent.logged")
    for part in (content, *content.get("ranks", [])):
        check_generators(part["generators"])


def check_generators(generators: Mapping[str, Any]) -> None:
    """Check the states of generators.

    Raises:
        ValueError: a generator does not take its state.
    """
    require(all(each.dtype == torch.uint8 for each in generators["cuda"]), "generators.cuda", "bytes")
    try:
        random.Random().setstate(generators["python"])
        np.random.RandomState().set_state(generators["numpy"])
        torch.Generator().set_state(generators["torch"])
    except Exception as error:  # each library raises its own exceptions
        raise ValueError(f"generators are no states of generators ({error})") from None


def check_fits(content: Mapping[str, Any], agent: OnPolicyAlgorithm) -> None:
    """Check that a checkpoint fits an agent, which is not changed.

    Args:
        content: a checkpoint's content that `check_content` has accepted.
        agent: an agent with its environments.

    Raises:
        ValueError: the checkpoint does not fit.
    """
    state = content["agent"]
    check_like(state["parameters"], agent.get_parameters(), "agent.parameters")
    moving, count = state["moving"], agent.n_envs
    check_like(moving["_last_episode_starts"], np.zeros(count, dtype=bool), "_last_episode_starts")
    inner = agent.get_vec_normalize_env() or agent  # its images may have their channels last
    for name, owner in (("_last_obs", agent), ("_last_original_obs", inner)):
        if name == "_last_obs" or moving.get(name) is not None:
            check_like(moving[name], create_empty_array(owner.observation_space, count), name)
    own: dict[str, Any] = getattr(agent, "resumable_state", dict)()
    for name in own.keys() & moving.keys():
        check_like(moving[name], own[name], name)
    for name, noise in state["noise"].items():
        shape = getattr(agent.policy, "log_std", torch.empty(0)).shape
        require(noise.shape[-2:] == shape, f"agent.noise.{name}", f"of {shape}")


def check_optimizers(agent: OnPolicyAlgorithm) -> None:
    """Check the shapes in an agent's restored optimizers, which PyTorch does not check.

    Raises:
        ValueError: the optimizer's state of a parameter has another shape than the parameter.
    """
    for name in agent._get_torch_save_params()[0]:
        owner: Any = attrgetter(name)(agent)
        if isinstance(owner, Optimizer):
            for parameter, values in owner.state.items():
                for value in values.values():
                    fits = is_number(value) or value is None
                    if isinstance(value, Tensor):
                        fits = value.shape in (torch.Size(()), torch.Size((1,)), parameter.shape)
                    require(fits, f"agent.parameters.{name}", "states of its parameters")


def check_like(found: Any, example: Any, place: str) -> None:
    """Check that a value has the structure, types and shapes of an example.

    In an example, an empty dict or list accepts any contents; all items of a list must be like the example's
    first one; a type stands for what `KINDS` says; the key `...` stands for any further keys.

    Args:
        found: the value.
        example: the example.
        place: name of the value in the error message.

    Raises:
        ValueError: something does not fit; the message says where.
    """
    if isinstance(example, type):
        expected, matches = KINDS[example]
        require(matches(found), place, expected)
    elif isinstance(example, Mapping):
        require(isinstance(found, dict), place, "a mapping")
        missing = [str(name) for name in example if name not in found and name is not ...]
        require(not missing, place, f"a mapping with {', '.join(missing)}")
        for name in found if ... in example else example:
            check_like(found[name], example.get(name, example.get(...)), f"{place}.{name!s:.60}")
    elif isinstance(example, list):
        require(isinstance(found, list), place, "a list")
        for each in found if example else ():
            check_like(each, example[0], place)
    elif isinstance(example, tuple):
        require(
            isinstance(found, list | tuple) and len(found) == len(example), place, f"{len(example)} values"
        )
        for each, value in zip(found, example, strict=True):
            check_like(each, value, place)
    elif isinstance(example, np.ndarray):
        kinds, values = ("b", "booleans") if example.dtype == bool else ("biuf", "numbers")
        fits = isinstance(found, np.ndarray) and found.shape == example.shape and found.dtype.kind in kinds
        require(fits, place, f"{values} of shape {example.shape}")
    elif isinstance(example, Tensor):
        expected, got = map(kind_of, (example, found))
        require(got == expected, place, f"{expected}, not {got}")
    elif isinstance(example, bool | str):
        # Optimizers have None where torch is to choose, e.g. Adam's `fused` in checkpoints of version 0.1.
        undecided = found is None and example is True
        require(undecided or type(found) is type(example), place, type(example).__name__)
    elif isinstance(example, int | float):
        require(is_number(found), place, "a number")


def is_number(value: Any) -> bool:
    """Return whether a value is a finite Python int or float; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(value: Any) -> str:
    """Return dtype and shape of a tensor as text, or the type's name of anything else."""
    return f"{value.dtype} of shape {(*value.shape,)}" if isinstance(value, Tensor) else type(value).__name__


def require(fits: bool, place: str, expected: str) -> None:
    """Raise ValueError, which says what was expected in `place`, unless `fits`."""
    if not fits:
        raise ValueError(f"{place} must be {expected}")
