"""The hyper-parameters of an agent: their names and their ranges."""

import difflib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.critic import CRITICS

# Arguments of the constructor that a configuration does not set.
PLUMBING = {"self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}

# {arguments: (description of the valid values, check of a value)}. Arguments not listed are not checked.
GROUPS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "n_steps cg_max_steps factor_interval inverse_interval line_search_max_iter sub_sampling_factor "
    "stats_window_size": ("an integer ≥ 1", lambda v: is_integer(v) and v >= 1),
    "batch_size fisher_samples micro_batch_size": (
        "an integer ≥ 1, or None",
        lambda v: v is None or (is_integer(v) and v >= 1),
    ),
    "n_critic_updates": ("an integer ≥ 0", lambda v: is_integer(v) and v >= 0),
    "seed": ("an integer ≥ 0, or None", lambda v: v is None or (is_integer(v) and v >= 0)),
    "sde_sample_freq": ("an integer ≥ -1", lambda v: is_integer(v) and v >= -1),
    "gamma gae_lambda": ("a number in [0, 1]", lambda v: 0 <= v <= 1),
    "critic_lambda": ("a number in [0, 1], or None", lambda v: v is None or 0 <= v <= 1),
    "momentum fisher_decay": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "line_search_shrinking_factor": ("a number in (0, 1)", lambda v: 0 < v < 1),
    "cg_damping cg_tolerance": ("a number ≥ 0", lambda v: 0 <= v < math.inf),
    "damping critic_learning_rate": ("a number > 0", lambda v: 0 < v < math.inf),
    "step_size": ("None or a number > 0", lambda v: v is None or 0 < v < math.inf),
    "critic_target_kl": ("a number of nats > 0", lambda v: 0 < v < math.inf),
    "ent_coef": ("a number ≥ 0 or a schedule", lambda v: callable(v) or 0 <= v < math.inf),
    "target_kl": ("a number of nats > 0, or a schedule", lambda v: callable(v) or 0 < v < math.inf),
    "learning_rate": ("a number > 0 or a schedule", lambda v: callable(v) or 0 < v < math.inf),
    "adaptive_damping captured normalize_advantage use_masking use_sde": (
        "true or false",
        lambda v: isinstance(v, bool),
    ),
    "critic_fit": ('the name of a registered critic fit, e.g. "minibatch"', lambda v: v in CRITICS),
    "policy_kwargs": (
        'a mapping such as {"net_arch": [64, 64]} with integers ≥ 1 for the widths of layers, or None',
        lambda v: v is None or all(is_integer(width) and width >= 1 for width in widths(v)),
    ),
}
RANGES = {name: expected for names, expected in GROUPS.items() for name in names.split()}


class BatchTooSmallError(ValueError, AssertionError):
    """A batch of one state has no standard deviation. Also an AssertionError, which SB3 raises here."""


def check_ranges(**values: Any) -> None:
    """Check arguments against their ranges.

    Raises:
        ValueError: an argument is out of range; the message has its name, its range and the value.
    """
    for name, value in values.items():
        if name not in RANGES:
            continue
        expected, holds = RANGES[name]
        try:
            # True is 1 to Python: it is no number where a number is expected.
            valid = holds(value) and not (isinstance(value, bool) and holds(int(value)))
        except (TypeError, AttributeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"{name} must be {expected}, got {value!r:.200}")


def widths(policy_kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the widths of a policy's layers.

    Raises:
        TypeError, AttributeError: they are not given as SB3 takes them.
    """
    layers = policy_kwargs.get("net_arch") or []
    if isinstance(layers, list) and layers and isinstance(layers[0], dict):
        layers = layers[0]  # SB3's older form
    extractor = policy_kwargs.get("features_extractor_kwargs") or {}
    sizes = [extractor[name] for name in ("features_dim", "cnn_output_dim") if name in extractor]
    return [*sizes, *itertools.chain(*(layers.values() if isinstance(layers, dict) else [layers]))]


def present_value(name: str, value: float | Schedule, progress: float) -> float:
    """Return the value of an argument that may be a schedule, at the progress that remains (1 to 0).

    Raises:
        ValueError: the schedule raises, or returns anything but a number from 0.
    """
    if not callable(value):
        return float(value)
    try:
        result: Any = value(progress)
        number = math.nan if isinstance(result, bool | str) else float(result)
    except Exception as error:
        raise ValueError(f"the schedule {name} gives no number: {type(error).__name__}: {error}") from error
    if not 0 <= number < math.inf:
        raise ValueError(f"the schedule {name} returned {result!r:.60}; return a number that is 0 or larger")
    return number


def check_spread(n_steps: int, n_envs: int, normalize_advantage: bool) -> None:
    """Check that a batch has a standard deviation if advantages are normalised.

    Raises:
        BatchTooSmallError: the batch has a single state.
    """
    if n_steps * n_envs < 2 and normalize_advantage:
        raise BatchTooSmallError(
            f"n_steps * n_envs must be at least 2 to normalise advantages, got {n_steps} * "
            f"{n_envs}; raise n_steps or the number of environments"
        )


def check_minibatches(n_steps: int, n_envs: int, batch_size: int | None) -> None:
    """Warn if the last of the critic's minibatches is smaller than the others."""
    states = n_steps * n_envs
    if batch_size is not None and states % batch_size:
        warnings.warn(
            "the last minibatch of every epoch is truncated: "
            f"batch_size={batch_size} does not divide n_steps * n_envs = {n_steps} * {n_envs} = {states}",
            UserWarning,
            stacklevel=4,  # the caller of the constructor
        )


def check_unread(agent_class: type, critic_fit: str, values: Mapping[str, Any]) -> None:
    """Warn if arguments of the critic's minibatches are set, but the critic is fitted by L-BFGS."""
    defaults = defaults_of(agent_class)
    own = "critic_learning_rate" if "critic_learning_rate" in defaults else "learning_rate"
    unread = [name for name in ("batch_size", own) if name in defaults and values[name] != defaults[name]]
    if critic_fit == "lbfgs" and unread:
        warnings.warn(
            f"{' and '.join(unread)} will not be used: the critic is fitted by L-BFGS on the whole batch; "
            'critic_fit="minibatch" fits it as SB3 does',
            UserWarning,
            stacklevel=4,  # the caller of the constructor
        )


def check_entropy(ent_coef: float | Schedule, policy: ActorCriticPolicy) -> None:
    """Check that the entropy bonus, if there is one, is that of the actions.

    Raises:
        ValueError: the policy squashes its actions, whose entropy has no closed form.
    """
    if ent_coef != 0 and getattr(policy, "squash_output", False):
        raise ValueError(
            "ent_coef needs the entropy of the actions, which has no closed form with squash_output=True; "
            "set ent_coef to 0, or leave squash_output out of policy_kwargs"
        )


def check_resolution(policy: nn.Module, **target_kls: Any) -> None:
    """Warn of a target KL so small that rounding decides the step.

    A step changes log-probabilities by about sqrt(2δ). If this is less than 100 roundings of the dtype, the
    differences of log-probabilities, and so gain and KL, have fewer than two correct digits.
    """
    dtype = next(policy.parameters()).dtype
    least = 10.0 ** math.ceil(math.log10((100 * torch.finfo(dtype).eps) ** 2 / 2))
    for name, value in target_kls.items():
        if isinstance(value, int | float) and value < least:
            warnings.warn(
                f"{name}={value:g} is below what {dtype} resolves: rounding decides the steps; use at least "
                f"{least:g}, or a policy of float64",
                UserWarning,
                stacklevel=5,  # the caller of the constructor
            )


# Settings of SB3's algorithms that users look for, and why these agents do not have them.
ABSENT = {
    "vf_coef": "the critic is fitted by itself, not as a term of the policy's loss",
    "max_grad_norm": "target_kl or Adam sets the length of the step, not the gradient's norm",
    "clip_range": "target_kl or Adam sets the length of the step; PPO is the one that clips",
    "n_epochs": "the policy makes one step per rollout; n_critic_updates is for the critic",
}


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer: 5 is; 5.0, True and "5" are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def defaults_of(agent_class: type) -> dict[str, Any]:
    """Return the hyper-parameters that an agent's constructor takes, with their defaults.

    If the constructor has ``**kwargs``, those of the base class are included.
    """
    parameters = inspect.signature(agent_class).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        own = defaults_of(agent_class.__mro__[1]) | own
    return {name: default for name, default in own.items() if name not in PLUMBING}


def check_names(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Check that every given name is known.

    Raises:
        ValueError: a name is unknown; the message has the nearest known names.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has no setting {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known names, or why there is no such setting."""
    if name in ABSENT:
        return f"; {ABSENT[name]}"
    known = list(known)
    lower = {each.lower(): each for each in reversed(known)}
    matches = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if matches:
        return f"; did you mean {' or '.join(map(repr, matches))}?"
    return f"; expected one of {', '.join(known)}"
