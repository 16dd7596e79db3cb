"""Episodes that start from given seeds, played by a policy."""

import copy
from collections.abc import Callable
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

from envs.checked_env import CheckedEnv
from envs.single_env import env_pool_spec
from envs.user_modules import import_user_module
from experiments.progress import progress_bar

LONGEST = 200_000  # steps of an episode


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Start each episode from its own seed.

    Args:
        env: any.
        first: seed.
        stride: from one seed to the next.
    """

    def __init__(self, env: gym.Env[Any, Any], first: int, stride: int):
        super().__init__(env)
        self._seeds = count(first, stride)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin the next episode, from its own seed instead of the caller's."""
        return self.env.reset(seed=next(self._seeds), options=options)


class Explorer:
    """A policy with gSDE whose noise changes as often as in training; SB3's `predict` never changes it.

    Args:
        policy: with gSDE.
        interval: steps for which the noise stays.
    """

    def __init__(self, policy: ActorCriticPolicy, interval: int):
        self._policy, self._interval, self._steps = policy, interval, 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Return SB3's prediction."""
        if self._steps % self._interval == 0:
            self._policy.reset_noise(len(episode_start))
        self._steps += 1
        return self._policy.predict(observation, state, episode_start, deterministic)


def find_environment(env_id: str, modules: tuple[str, ...]) -> EnvSpec:
    """Return a registered environment, after the import of those modules and of no other.

    Args:
        env_id: perhaps of Gymnasium's form "module:Name-v0", whose module is not imported.
        modules: that register environments.

    Raises:
        ImportError: a module cannot be imported.
        ValueError: there is no such environment.
    """
    for module in modules:
        try:
            import_user_module(module)
        except ImportError as error:
            raise ImportError(f"--import {module} failed: {error}") from error
    module, _, name = env_id.rpartition(":")
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
    spec: EnvSpec, seed: int, n_envs: int, wrap: Callable[[gym.Env], gym.Env] | None = None, **kwargs: Any
) -> VecEnv:
    """Return environments in this process, whose k-th episode in `play` starts from seed + k.

    Args:
        spec: of one environment.
        seed: of the first episode.
        n_envs: how many.
        wrap: around every environment, if anything.
        kwargs: of `gymnasium.make`.
    """

    def one(i: int) -> gym.Env:
        env = gym.make(spec, **kwargs)
        env = SeededEpisodes(wrap(env) if wrap else env, seed + n_envs - 1 - i, n_envs)
        checked = CheckedEnv(env, copy.deepcopy)
        checked.set_index_for_messages(i)
        return Monitor(checked)

    return DummyVecEnv([partial(one, i) for i in range(n_envs)])


class EvaluationError(RuntimeError):
    """An episode may never end, or its return is NaN or infinite."""


def play(
    predictor: PolicyPredictor,
    env: VecEnv,
    episodes: int,
    *,
    deterministic: bool,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return returns and lengths of episodes, both (episodes,) in the order of their seeds.

    Every environment plays its share to the end, so that short episodes, which end first, count no more.

    Args:
        predictor: of actions, such as a policy.
        env: of `make_env`, perhaps under a normaliser of observations.
        episodes: how many, no fewer than environments.
        deterministic: whether the most likely actions are taken.
        seed: of the first episode, and of the actions' generator.
        after_step: called after every step; may raise to end the evaluation.

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

    with torch.random.fork_rng(devices=[]), progress_bar(episodes, "evaluation", "episode") as bar:
        torch.manual_seed(seed)
        evaluate_policy(predictor, env, episodes, deterministic, callback=check_step)
        bar.update(episodes - bar.n)
    # SB3 gives the last environments one episode more where they do not divide, so that the last come first.
    dealt = [(env.num_envs - 1 - k % env.num_envs, k // env.num_envs) for k in range(episodes)]
    per_env = [env.env_method(name) for name in ("get_episode_rewards", "get_episode_lengths")]
    returns, lengths = (np.array([of_env[i][j] for i, j in dealt]) for of_env in per_env)
    if not np.isfinite(returns).all():
        k = int(np.isfinite(returns).argmin())
        raise EvaluationError(
            f"expected finite returns, got {returns[k]} in the episode of seed {seed + k}: the environment "
            "gave such a reward; run it with another --seed, or fix the environment"
        )
    return returns, lengths
