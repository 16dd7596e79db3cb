"""Check spaces of observations and actions, and policies; an error says how to fix what does not work."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.patch_gym import _patch_env
from torch import nn

from agents.policy.actions import starts_at_zero
from agents.policy.names import with_classes
from agents.policy.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from agents.policy.recurrent.policies import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy

# {policy: its default feature extractor}; the extractor of any other policy is not known.
EXTRACTORS: dict[type, type] = {
    MlpPolicy: FlattenExtractor,
    ActorCriticPolicy: FlattenExtractor,
    CnnPolicy: NatureCNN,
    ActorCriticCnnPolicy: NatureCNN,
    MultiInputPolicy: CombinedExtractor,
    MultiInputActorCriticPolicy: CombinedExtractor,
    MlpLstmPolicy: FlattenExtractor,
    CnnLstmPolicy: NatureCNN,
    MultiInputLstmPolicy: CombinedExtractor,
}
LEAST_SIDE = 36  # pixels that NatureCNN needs
FLATTEN = "flatten them, e.g. by gymnasium.wrappers.FlattenObservation"


class UnsupportedSpaceError(ValueError, AssertionError, NotImplementedError):
    """No policy supports a space. Also of the types that SB3 raises, for code that catches those."""


def made_with_checks(env: GymEnv | str | None, verbose: int) -> Any:
    """Return the given environment, or make it from its id, and check its spaces.

    Raises:
        ValueError: see `check_spaces`.
    """
    env = maybe_make_env(env, verbose) if isinstance(env, str) else env
    if env is not None:
        env = env if isinstance(env, VecEnv) else _patch_env(env)  # as SB3 will
        check_spaces(*(getattr(env, name, None) for name in ("observation_space", "action_space")))
    return env


def check_spaces(observations: Any, actions: Any) -> None:
    """Check that the policies support an environment's spaces.

    Raises:
        ValueError: they do not; the message names the part and the fix.
    """
    for name, space in {"observation_space": observations, "action_space": actions}.items():
        if not isinstance(space, spaces.Space):
            raise UnsupportedSpaceError(
                f"the environment's {name} is {space}; set a gymnasium.spaces.Space in __init__"
            )
    problem = _problem_of_part("action_space", actions) or _problem_of_observations(observations)
    if problem is not None:
        raise UnsupportedSpaceError(problem)


def _problem_of_observations(space: spaces.Space) -> str | None:
    if not isinstance(space, spaces.Dict):
        return _problem_of_part("observation_space", space)
    parts = {f"observation_space[{key!r}]": part for key, part in space.spaces.items()}
    if not parts:
        return "observation_space is empty; give it at least one part"
    layouts = {is_image_space_channels_first(part) for part in parts.values() if is_image_space(part)}  # type: ignore[arg-type]
    if len(layouts) > 1:
        return f"observation_space has images with channels first and last: {space}; use one layout for all"
    return next(filter(None, (_problem_of_part(name, part) for name, part in parts.items())), None)


def _problem_of_part(name: str, space: spaces.Space) -> str | None:
    is_action, problem = name == "action_space", f"{name} is {space}: "
    kind = "Action" if is_action else "Observation"
    wrapper = f"gymnasium.wrappers.Transform{kind}"
    match space:
        case spaces.Box() if is_action and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            problem += f"its bounds must be finite; declare a sensible range, and scale by {wrapper}"
        case spaces.Box() if not (is_action or space.shape):
            problem += f"an observation needs a dimension; use the shape (1,), or {FLATTEN}"
        case spaces.MultiDiscrete() | spaces.MultiBinary() if len(space.shape) != 1:
            reshape = f"declare it flat, and reshape actions by {wrapper}" if is_action else FLATTEN
            # SB3's words, which its users may look for.
            unsupported = f"Multi-dimensional {space} {kind.lower()} space is not supported"
            problem = f"{name}: {unsupported}, it must have one dimension; {reshape}"
        case spaces.MultiBinary() if is_action and not isinstance(space.n, int):
            problem += f"the number must not be in a list; declare MultiBinary({space.shape[0]})"
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            if np.prod(space.shape or ()) > 0:
                return None
            problem += f"it is empty; give it at least one {'action' if is_action else 'number'}"
        case _ if is_action:
            problem += "expected a Box, Discrete, MultiDiscrete or MultiBinary; declare one of them, e.g. a "
            problem += f"MultiDiscrete for a Tuple of Discrete, and convert actions by {wrapper}"
        case _:
            problem += "expected a Box, Discrete, MultiDiscrete or MultiBinary, or one Dict of them; "
            problem += f"{FLATTEN}, or declare a Dict by TransformObservation"
    return problem


def check_starts(policy: str, policy_class: type, **named: spaces.Space) -> None:
    """Check that a policy can shift choices that do not count from 0.

    Args:
        policy: name of the policy, for messages.
        policy_class: the policy's class.
        named: the spaces of observations and actions.

    Raises:
        ValueError: it cannot.
    """
    for name, space in named.items():
        if not (starts_at_zero(space) or issubclass(policy_class, MlpPolicy)):
            kind = name.partition("_")[0].capitalize()
            raise UnsupportedSpaceError(
                f"{name} is {space}, but {policy} counts from 0; use a subclass of agents.MlpPolicy, or "
                f"shift choices by gymnasium.wrappers.Transform{kind}"
            )


def check_policy(policy: str, policy_class: type, kwargs: Mapping[str, Any], space: spaces.Space) -> None:
    """Check that a policy can compute its features from observations, whose images have channels first.

    Args:
        policy: name of the policy, for messages.
        policy_class: the policy's class.
        kwargs: the policy's arguments.
        space: the space of the observations.

    Raises:
        ValueError: it cannot; the message says which policy or change would help.
    """
    given = with_classes(kwargs).get("features_extractor_class")
    extractor = given or EXTRACTORS.get(policy_class)
    reader = policy if given is None else f"{policy} with {given.__name__}"
    without = "" if given is None else " without features_extractor_class"
    mlp, cnn, multi = (
        f"{kind}{'Lstm' * issubclass(policy_class, MlpLstmPolicy)}Policy"
        for kind in ("Mlp", "Cnn", "MultiInput")
    )
    parts = space.spaces if isinstance(space, spaces.Dict) else None
    if parts is not None and extractor in (FlattenExtractor, NatureCNN):
        raise UnsupportedSpaceError(
            f"{reader} cannot read a Dict of observations, {space}; use {multi!r}{without}"
        )
    if parts is None and extractor is CombinedExtractor:
        raise UnsupportedSpaceError(f"{reader} reads a Dict, not {space}; use {mlp!r} or {cnn!r}{without}")
    for key in parts if parts and extractor is CombinedExtractor else ():
        if not isinstance(key, str) or key in ("", *dir(nn.ModuleDict())) or "." in key:
            raise UnsupportedSpaceError(
                f"PyTorch cannot name a module {key!r}; rename that key of the observation"
            )
    is_image = partial(is_image_space, normalized_image=not kwargs.get("normalize_images", True))
    if extractor is NatureCNN and not is_image(space):
        raise UnsupportedSpaceError(
            f"{reader} reads images, Boxes of uint8 from 0 to 255 with the shape (height, width, channels), "
            f"not {space}; use {mlp!r}{without}. If VecNormalize made them floats, pass it "
            "norm_obs=False; images of floats need policy_kwargs={'normalize_images': False}, channels first"
        )
    for name, part in (parts or {"observation": space}).items():
        reads_images = extractor in (NatureCNN, CombinedExtractor) and is_image(part)
        if reads_images and min(part.shape[1:]) < LEAST_SIDE:  # type: ignore[index]
            raise UnsupportedSpaceError(
                f"the image {name!r}, {part}, is smaller than the {LEAST_SIDE} x {LEAST_SIDE} pixels that "
                f"NatureCNN needs; with channels first it has {part.shape[1]} x {part.shape[2]}. "  # type: ignore[index]
                "Enlarge it, e.g. by gymnasium.wrappers.ResizeObservation, or use "
                + ("another features_extractor_class" if parts else f"{mlp!r}{without}")
            )
