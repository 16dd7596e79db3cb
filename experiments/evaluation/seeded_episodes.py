"""Play episodes that start from given seeds."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs.atari import register_atari
from envs.checked_env import CheckedEnv
from envs.single_env import env_pool_spec, make_one
from envs.user_modules import import_user_module
from envs.wrapped_episodes import WrappedEpisodes
from experiments.evaluation.episode_costs import EpisodeCosts, read_costs
from experiments.progress import progress_bar
from experiments.settings.run_settings import RunSettings
from experiments.settings.wrapping import env_wrapper, wrapped

LONGEST = 200_000  # steps after which an episode is considered endless


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Start each episode from its own seed.

    Args:
        env: any environment.
        first: seed of the first episode.
        stride: difference between the seeds of two successive episodes.
    """

    def __init__(self, env: gym.Env[Any, Any], first: int, stride: int):
        super().__init__(env)
        self._seeds = count(first, stride)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start the next episode from its own seed; the argument `seed` is ignored."""
        return self.env.reset(seed=next(self._seeds), options=options)


class Explorer:
    """A predictor that samples gSDE's noise as often as in training; SB3's `predict` alone never does.

    Args:
        policy: a policy with gSDE.
        interval: number of steps after which new noise is sampled.
    """

    def __init__(self, policy: ActorCriticPolicy, interval: int):
        self._policy, self._interval, self._steps = policy, interval, 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Return what the policy's `predict` returns, with new noise at every `interval`-th step."""
        if self._steps % self._interval == 0:
            self._policy.reset_noise(len(episode_start))
        self._steps += 1
        return self._policy.predict(observation, state, episode_start, deterministic)


def find_environment(env_id: str, modules: tuple[str, ...]) -> EnvSpec:
    """Return the spec of a registered environment; only the given modules are imported.

    Args:
        env_id: the id; the module of "module:Name-v0" is not imported.
        modules: modules to import first, which register environments.

    Raises:
        ImportError: a module cannot be imported.
        ValueError: the environment is not registered.
    """
    for module in modules:
        try:
            import_user_module(module)
        except ImportError as error:
            raise ImportError(f"--import {module} failed: {error}") from error
    module, _, name = env_id.rpartition(":")
    register_atari(name)
    if (of_env_pool := env_pool_spec(name)) is not None:
        return of_env_pool
    if name not in gym.registry:
        remedy = f"--import {module}, if you trust it" if module else "--import envs for this project's own"
        raise ValueError(
            f"expected the run's environment to be registered, got {name!r}, which is not; "
            f"name the module that registers it: {remedy}"
        )
    return gym.registry[name]


def make_env(
    spec: EnvSpec,
    seed: int,
    n_envs: int,
    settings: RunSettings | None = None,
    wrap: Callable[[gym.Env], gym.Env] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Create environments in this process; in `play`, episode k starts from seed + k.

    Args:
        spec: spec of the environment.
        seed: seed of the first episode.
        n_envs: number of environments.
        settings: settings of the run, with its `env_kwargs` and wrappers; None for the environment as it is.
        wrap: wraps every environment; None for no wrapper.
        kwargs: more keyword arguments of `gymnasium.make`.

    Raises:
        MissingExtraError, ValueError: the environment or a wrapper cannot be made with these arguments.
    """
    kwargs = {**(settings.env_kwargs if settings else {}), **kwargs}
    wrapper = env_wrapper(settings) if settings else None

    def one(i: int) -> gym.Env:
        env = make_single(spec, kwargs)
        env = SeededEpisodes(wrap(env) if wrap else env, seed + n_envs - 1 - i, n_envs)
        monitor = Monitor(CheckedEnv(EpisodeCosts(env), copy.deepcopy))
        made = WrappedEpisodes(wrapper(monitor), copy.deepcopy) if wrapper else monitor
        made.get_wrapper_attr("set_index_for_messages")(i)
        return made

    with argument_errors(f"the environments of {spec.id} cannot be wrapped"):
        env = DummyVecEnv([partial(one, i) for i in range(n_envs)])
        return wrapped(env, settings) if settings else env


def make_single(spec: EnvSpec, kwargs: Mapping[str, Any]) -> gym.Env:
    """Return one environment without wrappers.

    Raises:
        MissingExtraError, ValueError: the environment cannot be made with these arguments.
    """
    with argument_errors(f"{spec.id} cannot be made with {dict(kwargs)!r:.200}"):
        return make_one(partial(gym.make, spec, **kwargs))


@contextmanager
def argument_errors(failed: str) -> Iterator[None]:
    """Raise ValueError in place of the errors that wrong arguments, e.g. in a config.yaml, raise anywhere.

    Args:
        failed: first words of the message.
    """
    try:
        yield
    except (TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{failed} ({type(error).__name__}: {error})") from error


class EvaluationError(RuntimeError):
    """An episode is too long, or its return is NaN or infinite."""


def play(
    predictor: PolicyPredictor,
    env: VecEnv,
    episodes: int,
    *,
    deterministic: bool,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
    show_bar: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the returns, lengths and costs of episodes, in the order of their seeds.

    The costs (episodes, m) are None if the environment reports none; returns and lengths are (episodes,).

    Every environment plays a fixed number of episodes, so that short ones, which end first, are not
    over-represented.

    Args:
        predictor: chooses the actions, e.g. a policy.
        env: environments of `make_env`, with or without a normaliser of observations.
        episodes: number of episodes, at least one per environment.
        deterministic: whether to take the most likely actions instead of sampling.
        seed: seed of the first episode, and of the sampled actions.
        after_step: called after every step; may raise to end the evaluation.
        show_bar: whether to show a progress bar.

    Raises:
        EvaluationError: a return is not finite, or an episode has lasted `LONGEST` steps.
    """

    def check_step(local: dict[str, Any], _: dict[str, Any]) -> None:
        bar.update(local["episode_counts"].sum() - bar.n)
        if local["current_lengths"].max() >= LONGEST:
            raise EvaluationError(
                f"an episode has lasted {LONGEST} steps: the task has no time limit, and the policy may "
                "never end it; register it with max_episode_steps, or evaluate no episodes"
            )
        after_step()

    bar = progress_bar(episodes, "evaluation", "episode", disable=not show_bar)
    with torch.random.fork_rng(devices=[]), bar:
        torch.manual_seed(seed)
        evaluate_policy(predictor, env, episodes, deterministic, callback=check_step)
        bar.update(episodes - bar.n)
    # If the episodes do not divide evenly, SB3 gives the last environments one more: count from the last.
    dealt = [(env.num_envs - 1 - k % env.num_envs, k // env.num_envs) for k in range(episodes)]
    per_env = [env.env_method(name) for name in ("get_episode_rewards", "get_episode_lengths")]
    returns, lengths = (np.array([of_env[i][j] for i, j in dealt]) for of_env in per_env)
    if not np.isfinite(returns).all():
        k = int(np.isfinite(returns).argmin())
        raise EvaluationError(
            f"expected finite returns, got {returns[k]} in the episode of seed {seed + k}: the environment "
            "gave such a reward; run it with another --seed, or fix the environment"
        )
    return returns, lengths, read_costs(env, dealt)
