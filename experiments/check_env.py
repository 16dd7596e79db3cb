"""The command `npg check-env`: find mistakes in an environment before training on it."""

import copy
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env as check_with_sb3

from agents.policy.masks import checked_masks
from agents.spaces import check_spaces
from envs.checked_env import CheckedEnv
from envs.masks import METHOD, AllowedActions
from envs.single_env import environment_spec, make_function, make_one
from envs.state.environment_state import StateUnavailableError, take_state
from envs.user_modules import import_user_module
from experiments.failure import SETUP_ERRORS, describe_failure, is_of_environment, raised_at
from experiments.options import CheckEnv
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings
from experiments.settings.wrapping import env_wrapper
from experiments.terminal import show
from experiments.text_table import aligned

SLOW = 1000.0  # steps per second; a policy and its update make a few thousand
SAME = 50  # steps that are repeated with the same seed
RANGE = "symmetric and normalized Box"  # in SB3's warning about actions, of which `advice_on` says more
LEAST_SIDE = 36  # pixels of an image for SB3's CnnPolicy
LARGE, SMALL = 10.0, 0.01  # scale of observations and rewards that networks learn from without normalising


@dataclass
class Measured:
    """What an environment did while it was played with random actions."""

    observations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    seconds: float = 0.0
    truncated: int = 0

    def add(self, observation: Any) -> None:
        """Record an observation, each part of a Dict or Tuple by itself."""
        for name, part in parts_of(observation):
            self.observations.setdefault(name, []).append(np.asarray(part, np.float64).ravel())


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an observation or a space, by name."""
    if isinstance(value, dict | spaces.Dict):
        yield from value.items()
    elif isinstance(value, tuple | spaces.Tuple):
        yield from ((str(index), part) for index, part in enumerate(value))
    else:
        yield "observation", value


def make(settings: RunSettings) -> gym.Env:
    """Make the environment with its arguments and wrappers, and check what it returns."""
    env: gym.Env = CheckedEnv(make_one(make_function(settings.env, dict(settings.env_kwargs))), copy.deepcopy)
    wrapper = env_wrapper(settings)
    return AllowedActions(wrapper(env) if wrapper else env)


def measure(env: gym.Env, steps: int, seed: int = 0) -> Measured:
    """Play with random actions, among those that the environment allows, for a number of steps.

    Raises:
        MaskError: a mask has the wrong shape, or allows no action.
    """
    found = Measured()
    masks = env.get_wrapper_attr(METHOD) if env.has_wrapper_attr(METHOD) else None
    episode = [0.0, 0.0]  # return and length
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    found.add(observation)
    for _ in range(steps):
        if masks is not None:
            checked_masks(masks(), env.action_space, 1)
        action = env.action_space.sample()
        start = time.perf_counter()
        observation, reward, terminated, truncated, _ = env.step(action)
        found.seconds += time.perf_counter() - start
        found.add(observation)
        found.rewards.append(float(reward))
        episode = [episode[0] + float(reward), episode[1] + 1]
        if terminated or truncated:
            found.returns.append(episode[0])
            found.lengths.append(int(episode[1]))
            found.truncated += not terminated
            episode = [0.0, 0]
            start = time.perf_counter()
            env.reset()
            found.seconds += time.perf_counter() - start
    return found


def advice_on(env: gym.Env, found: Measured, repeated: bool) -> Iterator[str]:
    """Yield what a user should know or change, in the order of importance."""
    steps, rewards = len(found.rewards), np.array(found.rewards)
    bad = [name for name, rows in found.observations.items() if not np.isfinite(np.concatenate(rows)).all()]
    if bad or not np.isfinite(rewards).all():
        where = ", ".join(bad) or "the reward"
        yield f"NaN or infinity in {where}: training would stop; find where it comes from"
    if not repeated:
        yield (
            "the same seed and actions gave other results: draw all random numbers from self.np_random, call "
            "super().reset(seed=seed) first, and set everything in reset(); else no run can be repeated"
        )
    if not found.lengths:
        yield (
            f"no episode ended in {steps} steps: if this can go on for ever, add a time limit, e.g. "
            "max_episode_steps=500 in gymnasium.register"
        )
    elif found.truncated == len(found.lengths):
        yield "every episode was truncated by a limit: the task never ends by itself under random actions"
    ends_itself = found.truncated < len(found.lengths)  # then a constant reward counts steps, as on CartPole
    if np.ptp(rewards) == 0 and (rewards[0] == 0 or not ends_itself):
        yield (
            f"every reward was {rewards[0]:g}: learning begins only if random actions find another one; "
            "reward progress, too, or make the task smaller"
        )
    elif (largest := np.abs(rewards).max()) > 1000 * LARGE:
        yield f"the largest reward is {largest:.3g}: fine with returns normalised, as in the shipped settings"
    for name, rows in found.observations.items():
        yield from advice_on_part(env, name, np.stack(rows))
    space = env.action_space
    if isinstance(space, spaces.Box) and not (np.allclose(space.low, -1) and np.allclose(space.high, 1)):
        yield (
            "declare actions in [-1, 1] and rescale them in step(), or add --env-wrapper "
            "'{gymnasium.wrappers.RescaleAction: {min_action: -1, max_action: 1}}': a policy starts with a "
            "standard deviation of about 0.6"
        )
    if steps / found.seconds < SLOW:
        yield "the environment will take most of the time; --vec-env workers uses all cores"
    try:
        take_state(env)
    except StateUnavailableError:
        yield "a run that was killed is resumed with new episodes; get_state() and set_state() make it exact"
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        yield "npg evaluate --video needs the render mode rgb_array"


def advice_on_part(env: gym.Env, name: str, values: np.ndarray) -> Iterator[str]:
    """Yield advice on one part of the observations, (steps, numbers)."""
    space = dict(parts_of(env.observation_space))[name]
    if not isinstance(space, spaces.Box) or space.dtype == np.uint8:
        return
    if (values < space.low.ravel()).any() or (values > space.high.ravel()).any():
        yield f"{name} leaves the bounds of its space: declare wider ones, or -np.inf and np.inf"
    spread = values.std(0)
    if constant := int((spread == 0).sum()):
        yield f"{constant} of {spread.size} numbers of {name} never change: leave them out if they never do"
    largest = float(np.abs(values).max())
    if largest > LARGE or 0 < largest < SMALL:
        yield (
            f"{name} is of size {largest:.3g}: the shipped settings normalise it; in Python, use "
            'policy_kwargs={"normalize_observations": True}'
        )


def table(found: Measured) -> list[str]:
    """Return minimum, mean, standard deviation and maximum of what was measured, as text."""
    rows: list[tuple[str, ...]] = [("", "min", "mean", "std", "max")]
    named: dict[str, Any] = {name: np.concatenate(rows) for name, rows in found.observations.items()}
    named |= {"reward": found.rewards, "return": found.returns, "length": found.lengths}
    for name, values in named.items():
        if len(values):
            numbers = (np.min(values), np.mean(values), np.std(values), np.max(values))
            rows.append((name, *(f"{number:.4g}" for number in numbers)))
    return aligned(rows)


def repeats(settings: RunSettings) -> bool:
    """Return whether the same seed and actions give the same observations and rewards."""
    played = []
    for _ in range(2):
        with closing(make(settings)) as env:
            found = measure(env, SAME, seed=3)
        played.append((found.rewards, {k: np.stack(rows) for k, rows in found.observations.items()}))
    (rewards, seen), (again, seen_again) = played
    return rewards == again and all(np.array_equal(seen[k], seen_again[k], equal_nan=True) for k in seen)


def check(arguments: CheckEnv) -> None:
    """Check an environment, and print what was found."""
    if arguments.steps < 1:
        raise ValueError(f"expected --steps ≥ 1, got {arguments.steps}")
    for module in arguments.import_:
        import_user_module(module)
    given: dict[str, Any] = {"env_kwargs": arguments.env_kwargs, "env_wrapper": arguments.env_wrapper}
    spec = environment_spec(arguments.env)
    settings = resolve(Arguments(env=(arguments.env,), **given))
    with warnings.catch_warnings(record=True) as caught, closing(make(settings)) as env:
        warnings.simplefilter("always")
        check_spaces(env.observation_space, env.action_space)
        if env.has_wrapper_attr(METHOD):  # SB3's checker does not know masks
            measure(env, arguments.steps)
        check_with_sb3(env, warn=True, skip_render_check=True)
    with closing(make(settings)) as env:
        show(f"{spec.id}: {env.observation_space} -> {env.action_space}")
        found = measure(env, arguments.steps)
        speed = len(found.rewards) / found.seconds
        show(f"{len(found.rewards)} random steps, {speed:.0f} per second, in one process")
        show("\n".join(f"  {line}" for line in table(found)))
        lines = [" ".join(str(each.message).split()) for each in caught]
        lines = [line for line in lines if RANGE not in line]
        lines = list(dict.fromkeys([*advice_on(env, found, repeats(settings)), *lines]))
        policy = policy_of(env.observation_space)
    for line in lines:
        show(f"- {line}")
    show("no errors" + ("; see the remarks above" if lines else ""))
    words: dict[str, Any] = {} if policy == "MlpPolicy" else {"set": ((f"policy={policy}",),)}
    show(f"next: {Arguments(env=(arguments.env,), import_=arguments.import_, **given, **words)}")


def policy_of(space: spaces.Space) -> str:
    """Return the name of the policy for these observations."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    shape = space.shape or ()
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3
    return "CnnPolicy" if image and sorted(shape)[1] >= LEAST_SIDE else "MlpPolicy"


def main(arguments: CheckEnv) -> int:
    """Check, and return the exit code: 1 if the environment has an error."""
    try:
        check(arguments)
    except Exception as error:
        if is_of_environment(error) or not isinstance(error, SETUP_ERRORS):
            show(describe_failure(error, "in the check"), error=True)
            return 1
        show(f"error: {' '.join(str(error).split())}{raised_at(error)}", error=True)
        return 2 if isinstance(error, ImportError | OSError | ValueError) else 1  # 1: of SB3's checker
    return 0
