"""What a checkpoint of a run must hold; one that is valid as a file may come from anybody."""

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor
from torch.optim import Optimizer

from experiments.run.plain_yaml import check_plain

LARGEST = 2**53  # of a counter
LONGEST = 1_000  # characters of a logged number
CONTENT = ("run", "callbacks", "log", "seconds", "agent", "envs", "updates", "generators")
AGENT = ("parameters", "moving", "episodes", "successes", "logged", "noise", "averaged", "excluded")


def check_content(content: Any) -> None:
    """Check what does not depend on the agent.

    Raises:
        ValueError: something is missing, or of another type.
    """
    items = entries(content, "a checkpoint", CONTENT)
    agent = entries(items["agent"], "agent", AGENT)
    parameters = entries(agent["parameters"], "agent.parameters", ("policy",))
    tensors = entries(parameters["policy"], "agent.parameters.policy")
    require(all(isinstance(each, Tensor) for each in tensors.values()), "agent.parameters.policy", "tensors")
    check_plain(dict(entries(items["run"], "run")))
    log = entries(items["log"], "log", ("csv", "events"))
    counts = {
        "updates": items["updates"],
        **{f"log.csv.{k}": v for k, v in entries(log["csv"], "log.csv", ("rows", "columns")).items()},
        **{f"log.events.{k}": v for k, v in entries(log["events"], "log.events").items()},
        **{f"agent.averaged.{k}": v for k, v in entries(agent["averaged"], "agent.averaged").items()},
    }
    moving = entries(agent["moving"], "agent.moving", ("num_timesteps", "_last_obs", "_last_episode_starts"))
    counts |= {name: moving.get(name, 0) for name in ("num_timesteps", "_n_updates", "_episode_num")}
    for name, value in counts.items():
        require(type(value) is int and 0 <= value <= LARGEST, name, "a count")
    numbers = {"seconds": items["seconds"], "progress": moving.get("_current_progress_remaining", 1.0)}
    for name, value in numbers.items():
        require(is_number(value) and abs(value) <= LARGEST, name, "a number")
    require(items["seconds"] >= 0, "seconds", "at least 0")
    check_records(agent, items["callbacks"])
    check_generators(entries(items["generators"], "generators", ("python", "numpy", "torch", "cuda")))


def check_records(agent: Mapping[str, Any], callbacks: Any) -> None:
    """Check the episodes, the row to be logged, and the counters of callbacks."""
    for name in ("episodes", "successes"):
        require(isinstance(agent[name], list), f"agent.{name}", "a list")
    for episode in agent["episodes"]:
        known = entries(episode, "an episode", ("r", "l", "t"))
        require(all(is_number(known[key]) for key in "rlt"), "an episode", "numbers")
    require(all(map(is_number, agent["successes"])), "agent.successes", "numbers")
    logged = entries(agent["logged"], "agent.logged")
    excluded = entries(agent["excluded"], "agent.excluded")
    require(excluded.keys() == logged.keys(), "agent.excluded", "as many names as agent.logged")
    for text in logged.values():
        require(isinstance(text, str) and len(text) <= LONGEST, "agent.logged", "short texts")
    for formats in excluded.values():
        texts = isinstance(formats, list) and all(isinstance(each, str) for each in formats)
        require(texts, "agent.excluded", "lists of texts")
    require(isinstance(callbacks, list), "callbacks", "a list")
    for counters in callbacks:
        values = entries(counters, "a callback").values()
        require(all(type(value) is int for value in values), "callbacks", "counters")


def check_generators(state: Mapping[str, Any]) -> None:
    """Check that generators like the global ones take these states."""
    require(isinstance(state["cuda"], list), "generators.cuda", "a list")
    try:
        random.Random().setstate(state["python"])
        np.random.RandomState().set_state(state["numpy"])
        torch.Generator().set_state(state["torch"])
        for each in state["cuda"]:
            require(isinstance(each, Tensor) and each.dtype == torch.uint8, "generators.cuda", "bytes")
    except Exception as error:  # each library has its own
        raise ValueError(f"generators are no states of generators ({error})") from None


def check_fits(content: Mapping[str, Any], agent: OnPolicyAlgorithm) -> None:
    """Check that a checkpoint which `check_content` accepts is of an agent like this one; nothing is changed.

    Raises:
        ValueError: it is of another.
    """
    state = content["agent"]
    check_like(state["parameters"], agent.get_parameters(), "agent.parameters")
    moving, count = state["moving"], agent.n_envs
    space = agent.observation_space
    for name in ("_last_obs", "_last_original_obs"):
        found = moving.get(name)
        if name == "_last_obs" or found is not None:
            parts = {"": space} if not isinstance(space, spaces.Dict) else dict(space.items())
            arrays = {"": found} if not isinstance(space, spaces.Dict) else entries(found, name, tuple(parts))
            for key, part in parts.items():
                array, shape = arrays[key], (count, *(part.shape or ()))
                fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype.kind in "biuf"
                require(fits, name, f"numbers of shape {shape}")
    starts = moving["_last_episode_starts"]
    fits = isinstance(starts, np.ndarray) and starts.shape == (count,) and starts.dtype == bool
    require(fits, "_last_episode_starts", f"{count} booleans")
    own: dict[str, Any] = getattr(agent, "resumable_state", dict)()
    for name in own.keys() & moving.keys():
        check_like(moving[name], own[name] if not isinstance(own[name], list) else None, name)
        require(isinstance(moving[name], list) or not isinstance(own[name], list), name, "a list")
    for name, noise in entries(state["noise"], "agent.noise").items():
        shape = getattr(agent.policy, "log_std", torch.empty(0)).shape
        require(isinstance(noise, Tensor) and noise.shape[-2:] == shape, f"agent.noise.{name}", f"of {shape}")


def check_optimizers(agent: OnPolicyAlgorithm) -> None:
    """Check the optimizers that an agent has restored, which PyTorch does not.

    Raises:
        ValueError: the state of a parameter has another shape.
    """
    for name in agent._get_torch_save_params()[0]:
        owner: Any = agent
        for part in name.split("."):
            owner = getattr(owner, part)
        if isinstance(owner, Optimizer):
            for parameter, values in owner.state.items():
                for value in values.values():
                    fits = is_number(value) or value is None
                    if isinstance(value, Tensor):
                        fits = value.shape in (torch.Size(()), torch.Size((1,)), parameter.shape)
                    require(fits, f"agent.parameters.{name}", "states of its parameters")


def check_like(found: Any, example: Any, place: str) -> None:
    """Check a value's structure, types and shapes by an example; anything fits an empty part of that."""
    if isinstance(example, Mapping):
        found = entries(found, place) if not example else entries(found, place, tuple(example))
        for key, value in example.items():
            check_like(found[key], value, f"{place}.{key}")
    elif isinstance(example, list | tuple):
        fits = isinstance(found, list | tuple) and len(found) == len(example)
        require(fits, place, f"{len(example)} values")
        for each, value in zip(found, example, strict=True):
            check_like(each, value, place)
    elif isinstance(example, Tensor):
        fits = isinstance(found, Tensor) and (found.shape, found.dtype) == (example.shape, example.dtype)
        require(fits, place, f"{example.dtype} of shape {tuple(example.shape)}")
    elif isinstance(example, bool | str):
        require(type(found) is type(example), place, type(example).__name__)
    elif isinstance(example, int | float):
        require(is_number(found), place, "a number")


def entries(value: Any, place: str, names: tuple[Any, ...] = ()) -> Mapping[Any, Any]:
    """Return a mapping that has these names.

    Raises:
        ValueError: it has not.
    """
    require(isinstance(value, dict), place, "a mapping")
    missing = [name for name in names if name not in value]
    require(not missing, place, f"a mapping with {', '.join(map(str, missing))}")
    return dict(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of Python's."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require(fits: bool, place: str, expected: str) -> None:
    """Raise ValueError if something does not fit."""
    if not fits:
        raise ValueError(f"{place} must be {expected}")
