"""Make SB3 vector environments; error messages say how to fix the problem."""

import copy
import difflib
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from envs.checked_env import CheckedEnv
from envs.single_env import EnvId, env_pool_spec, make_function, make_one
from envs.tensor.registry import make_tensor_vec_env
from envs.vec_env_choice import choose_vec_env
from envs.vector.env_pool import EnvPoolVecEnv
from envs.vector.forwarding import ForwardingDummyVecEnv, ForwardingSubprocVecEnv
from envs.workers.worker import TIMEOUT
from envs.workers.worker_process import encode
from envs.workers.worker_vec_env import WorkerVecEnv
from envs.wrapped_episodes import WrappedEpisodes

# (env_id, n_envs, seed=..., env_kwargs=...) -> vector environment
VecEnvBuilder = Callable[..., VecEnv]

_OURS: dict[Any, type[VecEnv]] = {DummyVecEnv: ForwardingDummyVecEnv, SubprocVecEnv: ForwardingSubprocVecEnv}


def _build(
    vec_env_class: Any,
    env_id: EnvId,
    n_envs: int,
    *,
    env_kwargs: dict[str, Any],
    vec_env_kwargs: dict[str, Any] | None = None,
    worker_timeout: float | None = TIMEOUT,
    **options: Any,
) -> VecEnv:
    """Build a vector environment from single ones, after building one of them as a check."""
    make = make_function(env_id, env_kwargs)
    kind = vec_env_class if isinstance(vec_env_class, type) else object
    in_process = issubclass(kind, DummyVecEnv)
    if isinstance(env_id, str) or not in_process:  # a function may always return the same environment
        make_one(make).close()
    transfer: Callable[[Any], Any] = copy.deepcopy if in_process else pickle.dumps
    if issubclass(kind, WorkerVecEnv):
        transfer = encode
        vec_env_kwargs = {"timeout": worker_timeout, **(vec_env_kwargs or {})}

    def build_numbered(env_fns: list[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> VecEnv:
        numbered = [partial(_make_numbered, env_fn, i) for i, env_fn in enumerate(env_fns)]
        return vec_env_class(numbered, **kwargs)

    if options.get("wrapper_class") is not None:
        options["wrapper_class"] = partial(_wrap, options["wrapper_class"], transfer)

    # Pass a function rather than the id: given an id, SB3 sets render_mode="rgb_array", which costs start-up
    # time and causes warnings.
    return sb3_make_vec_env(
        lambda: CheckedEnv(make_one(make), transfer),
        n_envs,
        vec_env_cls=build_numbered,  # type: ignore[arg-type]
        vec_env_kwargs=vec_env_kwargs,
        **options,
    )


def _wrap(
    wrapper_class: Callable[..., Any], transfer: Callable[[Any], Any], env: gym.Env[Any, Any], **kwargs: Any
) -> gym.Env[Any, Any]:
    return WrappedEpisodes(wrapper_class(env, **kwargs), transfer)


def _make_numbered(make: Callable[[], gym.Env[Any, Any]], index: int) -> gym.Env[Any, Any]:
    env = make()
    env.get_wrapper_attr("set_index_for_messages")(index)
    return env


def _build_automatically(env_id: EnvId, n_envs: int, *, env_kwargs: dict[str, Any], **options: Any) -> VecEnv:
    choice = choose_vec_env(env_id, n_envs, env_kwargs=env_kwargs)
    return VEC_ENVS[choice.vec_env](env_id, n_envs, env_kwargs=env_kwargs, **options)


# The vector environments that accept every argument of `make_vec_env`.
_SINGLE: dict[str, VecEnvBuilder] = {
    "auto": _build_automatically,
    "dummy": partial(_build, ForwardingDummyVecEnv),
    "subproc": partial(_build, ForwardingSubprocVecEnv),
    "workers": partial(_build, WorkerVecEnv),
}
VEC_ENVS: dict[str, VecEnvBuilder] = {**_SINGLE, "envpool": EnvPoolVecEnv, "tensor": make_tensor_vec_env}


def register_vec_env(name: str, builder: VecEnvBuilder) -> None:
    """Make a vector environment available as ``make_vec_env(..., vec_env=name)``.

    Args:
        name: A new name.
        builder: A class or function, called as ``builder(env_id, n_envs, seed=..., env_kwargs=...)``.
            It must seed environment i with ``seed + i``, and its infos need the entries of SB3's ``Monitor``.

    Raises:
        ValueError: If the name is registered already.
    """
    if name in VEC_ENVS:
        raise ValueError(f"vec_env {name!r} is registered already; choose another name")
    VEC_ENVS[name] = builder


def make_vec_env(
    env_id: EnvId,
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[..., gym.Env[Any, Any]] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: Callable[..., VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    *,
    vec_env: str = "auto",
    worker_timeout: float | None = TIMEOUT,
) -> VecEnv:
    """Make an SB3 vector environment that records episodes as SB3's ``Monitor`` does.

    The positional arguments are those of SB3's function. Each environment is wrapped in `CheckedEnv`, which
    checks what it returns.

    Args:
        env_id: A registered Gymnasium id (see `environment_spec`), or a class or function that returns a new
            environment.
        n_envs: The number of environments, at least 1.
        seed: Environment i is seeded with ``seed + i`` at its first reset, and so is its
            action space; None seeds from the operating system or NumPy's global state.
        start_index: Added to i for the seed of the action space and the name of Monitor's file.
        monitor_dir: Folder for Monitor's files; None for no files.
        wrapper_class: Wraps each environment and its Monitor, which records the environment's own rewards; an
            episode that the wrapper ends is recorded, too.
        env_kwargs: Keyword arguments of the environment's constructor, or of
            ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, ...); with EnvPool, of
            ``envpool.make``; with tensors, also ``device`` (by default "auto", a GPU if there is one)
            and ``dtype``.
        vec_env_cls: The class of the vector environment, instead of `vec_env`.
        vec_env_kwargs: Keyword arguments of the vector environment's class, which must be given by `vec_env`
            or `vec_env_cls`.
        monitor_kwargs: Keyword arguments of Monitor.
        wrapper_kwargs: Keyword arguments of `wrapper_class`.
        vec_env: ``"dummy"`` steps the environments in this process, ``"workers"`` in one process
            per core, ``"subproc"`` in one process each, all three with bitwise equal results; ``"auto"``
            chooses the faster of the first two (see `choose_vec_env`). ``"envpool"`` uses EnvPool's own
            version of the task (see `EnvPoolVecEnv`), ``"tensor"`` a version whose states are tensors on
            one device (see `TensorVecEnv` and `register_tensor_env`). `register_vec_env` adds others.
        worker_timeout: With workers, the seconds that one reset or step of one environment may take (see
            `WorkerVecEnv`); None for no limit.

    Returns:
        The vector environment, not yet reset.

    Raises:
        UnknownEnvironmentError: If Gymnasium or EnvPool does not know the id, or the task has no tensor
            version; raised before anything is built.
        MissingExtraError: If the environment's packages are not installed.
        ValueError: If `vec_env` is unknown, `n_envs` is below 1 or an argument does not apply; raised before
            anything is built. Also if the environment's observation space is not supported, or if EnvPool
            does not know an argument or has a different task under the id.
    """
    if vec_env not in VEC_ENVS:
        nearest = difflib.get_close_matches(vec_env, VEC_ENVS, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise ValueError(
            f"expected vec_env to be one of {sorted(VEC_ENVS)}, got {vec_env!r}{hint}; 'auto' chooses one."
        )
    if n_envs < 1:
        raise ValueError(f"expected n_envs >= 1, got {n_envs}; pass a positive number.")
    if vec_env_cls is not None and vec_env != "auto":
        raise ValueError(f"both vec_env={vec_env!r} and vec_env_cls={vec_env_cls} are given; drop one")
    if vec_env_kwargs and vec_env == "auto" and vec_env_cls is None:
        raise ValueError("vec_env_kwargs are for a known class; add vec_env='workers', or vec_env_cls")
    if vec_env == "auto" and vec_env_cls is None and isinstance(env_id, str) and env_pool_spec(env_id):
        vec_env = "envpool"
    options: dict[str, Any] = {
        "start_index": start_index,
        "monitor_dir": monitor_dir,
        "wrapper_class": wrapper_class,
        "vec_env_kwargs": vec_env_kwargs,
        "monitor_kwargs": monitor_kwargs,
        "wrapper_kwargs": wrapper_kwargs,
    }
    builder = VEC_ENVS[vec_env]
    if vec_env_cls is not None:
        builder = partial(_build, _OURS.get(vec_env_cls, vec_env_cls))
    if vec_env in _SINGLE:
        options["worker_timeout"] = worker_timeout
    else:
        options = {name: value for name, value in options.items() if value}
        if options or not isinstance(env_id, str):
            raise ValueError(
                f"vec_env={vec_env!r} takes env_id, n_envs, seed and env_kwargs, not "
                f"{', '.join(options) or 'a function'}; use vec_env='auto'"
            )
    return builder(env_id, n_envs, seed=seed, env_kwargs=dict(env_kwargs or {}), **options)
