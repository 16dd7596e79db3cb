"""The training environments of a run, shared by its ranks."""

from dataclasses import replace

import gymnasium as gym
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from agents.ranks import ONE, Ranks
from agents.spaces import check_spaces
from envs import choose_vec_env, make_vec_env
from envs.atari import is_atari
from envs.single_env import env_pool_spec, make_function, make_one
from experiments.algorithms import PEERS
from experiments.normalised import normalised
from experiments.settings.class_list import entries
from experiments.settings.run_settings import RunSettings
from experiments.settings.wrapping import env_wrapper, wrapped
from experiments.terminal import show


def check_ranks(settings: RunSettings, ranks: Ranks) -> None:
    """Check that a run can be made on several ranks.

    Raises:
        ValueError: it has fewer environments than ranks, or the algorithm is not ours.
    """
    if not ranks.several:
        return
    if settings.algo in PEERS:
        raise ValueError(f"{settings.algo} trains in one process; start it without torchrun")
    if settings.callback:
        raise ValueError("callbacks work in one process; start the run without torchrun, or without callback")
    if settings.n_envs < ranks.size:
        raise ValueError(
            f"{settings.n_envs} environments cannot be shared by {ranks.size} ranks; raise --n-envs, or "
            "lower torchrun's --nproc-per-node"
        )


def show_atari(settings: RunSettings) -> None:
    """Show how a game is wrapped, if the environment is one: its settings need not name the wrapper."""
    if is_atari(settings.env) and settings.env_wrapper:
        wrappers = ", ".join(name for name, _ in entries(settings.env_wrapper))
        show(
            f"Atari: {settings.policy} sees {settings.frame_stack} frames of {wrappers}; returns are the "
            "game's own score"
        )


def environments_of(settings: RunSettings, ranks: Ranks) -> list[int]:
    """Return the number of environments of each rank."""
    least, more = divmod(settings.n_envs, ranks.size)
    return [least + (rank < more) for rank in range(ranks.size)]


def choose(settings: RunSettings, n_envs: int) -> RunSettings:
    """Return settings with the kind of vector environment chosen by timing one environment with its wrappers.

    Raises:
        MissingExtraError: the environment's packages are not installed.
        ValueError: the environment does not take its arguments.
    """
    show_atari(settings)
    wrapper, make = env_wrapper(settings), make_function(settings.env, dict(settings.env_kwargs))
    if settings.vec_env == "auto":

        def single() -> gym.Env:
            env = make_one(make)
            env = wrapper(env) if wrapper else env
            check_spaces(env.observation_space, env.action_space)  # before it is stepped
            return env

        only_env_pool = env_pool_spec(settings.env) is not None
        choice = choose_vec_env(settings.env if only_env_pool else single, n_envs)
        show(f"vec_env: {choice}")
        settings = replace(settings, vec_env=choice.vec_env)
    if settings.env_kwargs and settings.vec_env in ("envpool", "tensor"):
        make_one(make).close()  # evaluation plays Gymnasium's version, which must take the arguments, too
    if (settings.vec_env, settings.device) == ("tensor", "auto"):  # the agent's device is the environments'
        settings = replace(settings, device=str(get_device()))
    return settings


def make_env(settings: RunSettings, step: int = 0, ranks: Ranks = ONE) -> VecEnv:
    """Create this rank's training environments.

    The seed of an environment is the run's plus its index among those of all ranks plus `step`, so that
    resuming repeats no episode.
    """
    counts = environments_of(settings, ranks)
    device = {"device": settings.device} if settings.vec_env == "tensor" else {}
    monitor = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.monitor_kwargs.items()}
    env = make_vec_env(
        settings.env,
        counts[ranks.rank],
        seed=settings.seed + step + sum(counts[: ranks.rank]),
        wrapper_class=env_wrapper(settings),
        env_kwargs={**device, **settings.env_kwargs},
        monitor_kwargs=monitor,
        vec_env=settings.vec_env,
        worker_timeout=settings.worker_timeout or None,
    )
    env = wrapped(env, settings)
    if not settings.normalize:
        return env
    return normalised(env, settings.hyperparameters["gamma"], settings.normalize)
