"""EnvPool's environments, which run in C++ threads, as an SB3 vector environment."""

import copy
import difflib
import importlib
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from envs.cores import usable_cores
from envs.errors import MissingExtraError, UnknownEnvironmentError
from envs.extras import install_command
from envs.observations import copy_row, replace_rows
from envs.vector.episode_statistics import EpisodeStatistics

_SEEDS = 2**31  # EnvPool's seeds are of type int32
_RESERVED = {"num_envs", "batch_size", "seed", "env_seed", "gym_reset_return_info"}
_NOT_TASK_KWARGS = {"num_threads", "thread_affinity_offset", "max_episode_steps", "render_mode"}


class EnvPoolVecEnv(VecEnv):
    """Environments of EnvPool with the semantics of SB3's vector environments.

    By default EnvPool resets an environment in the step *after* its episode has ended; that step ignores the
    action and has reward 0. Here these environments are reset by their ids within the same step, so that
    every step is one true transition per environment.

    Time limits are counted here, and EnvPool's own limit is set one step later: if an episode terminates
    exactly at its limit, EnvPool 1.2.5 reports it as truncated only, but Gymnasium as both. This requires a
    known limit, from Gymnasium's registry or `env_kwargs`; otherwise EnvPool's limit and flag apply.

    Infos have SB3's entries ``TimeLimit.truncated``, ``terminal_observation`` and ``episode``, so that
    no ``Monitor`` is needed (`env_is_wrapped` reports one). With ``reward_clip``, ``episode`` has the
    unclipped score. EnvPool's other arrays, e.g. ``x_position``, are left out: they are fewer than
    Gymnasium's for the same task, and splitting them into dicts would cost time at every step.

    EnvPool takes seeds only when it builds its environments, so after `seed` the next reset rebuilds them.
    """

    def __init__(
        self,
        env_id: str,
        n_envs: int = 1,
        *,
        seed: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Build the environments.

        Args:
            env_id: One of ``envpool.list_all_envs()``.
            n_envs: The number of environments, at least 1.
            seed: Environment i is seeded with ``seed + i``; None draws a seed from NumPy's global state.
            env_kwargs: EnvPool's options for the task, e.g. ``max_episode_steps``; ``num_threads``
                defaults to the number of usable cores, but at most `n_envs`.

        Raises:
            MissingExtraError: If EnvPool is not installed.
            UnknownEnvironmentError: If EnvPool has no such task.
            ValueError: If EnvPool does not know an option, or if its task has several players, or spaces
                that differ from Gymnasium's.
        """
        self._envpool = _import_envpool()
        self._env_id = env_id
        if env_id not in self._envpool.list_all_envs():
            nearest = difflib.get_close_matches(env_id, self._envpool.list_all_envs())
            hint = f"did you mean {' or '.join(map(repr, nearest))}? Otherwise use" if nearest else "use"
            raise UnknownEnvironmentError(
                f"expected one of envpool.list_all_envs(), got {env_id!r}: {hint} vec_env='auto', "
                "which supports every environment of Gymnasium"
            )
        self._kwargs = {"num_threads": min(n_envs, len(usable_cores())), **(env_kwargs or {})}
        registered = gym.registry.get(env_id)
        self._spec = EnvSpec(env_id) if registered is None else copy.deepcopy(registered)
        limit = self._kwargs.get("max_episode_steps", self._spec.max_episode_steps)
        self._limit = np.inf if limit is None else int(limit)
        if limit is not None:
            self._kwargs["max_episode_steps"] = int(limit) + 1
            self._spec.max_episode_steps = int(limit)
        self._n_envs = n_envs
        self._pool: Any = None
        first = np.random.randint(_SEEDS) if seed is None else seed  # noqa: NPY002 - as SB3
        self._build(self._to_int32(first))
        self._statistics = EpisodeStatistics(n_envs)
        task_kwargs = {key: value for key, value in self._kwargs.items() if key not in _NOT_TASK_KWARGS}
        super().__init__(n_envs, *_find_spaces(self._pool, registered, task_kwargs))

    def _to_int32(self, seed: int) -> list[int]:
        return [int(seed + i) % _SEEDS for i in range(self._n_envs)]

    def _build(self, seeds: list[int]) -> None:
        """Build the pool; environment i has seeds[i]."""
        if reserved := sorted(_RESERVED & self._kwargs.keys()):
            raise ValueError(f"env_kwargs contains {reserved}, which are set here; remove them")
        if self._kwargs.get("episodic_life"):
            raise ValueError(
                "EnvPool restarts a game when a life is lost; leave episodic_life out of env_kwargs"
            )
        try:
            pool = self._envpool.make_gymnasium(
                self._env_id, num_envs=self._n_envs, seed=seeds, **self._kwargs
            )
            with warnings.catch_warnings():  # Gymnasium warns about EnvPool's spaces
                warnings.filterwarnings("ignore", ".*precision lowered by casting", UserWarning)
                _ = pool.observation_space, pool.action_space
        except (TypeError, AssertionError) as error:
            known = sorted(set(self._envpool.make_spec(self._env_id).config._fields) - _RESERVED)
            raise ValueError(
                f"expected env_kwargs that EnvPool's {self._env_id} accepts, {known} or render_mode, "
                f"got {sorted(self._kwargs)}: {error}; vec_env='auto' accepts those of Gymnasium"
            ) from error
        if pool.config["max_num_players"] != 1:
            raise ValueError(f"{self._env_id} has several players, and SB3 supports one; use another task")
        if self._pool is not None:
            self._pool.close()
        self._pool, self._built_with, self._fresh = pool, seeds, True

    def reset(self) -> VecEnvObs:
        """Reset all environments; rebuild them if `seed` was called since the last reset.

        Raises:
            ValueError: If options were set for this reset; EnvPool takes none.
        """
        if any(self._options):
            raise ValueError("EnvPool takes no reset options; set env_kwargs instead")
        if self._seeds[0] is not None:
            seeds = self._to_int32(self._seeds[0])
            if not (self._fresh and seeds == self._built_with):
                self._build(seeds)
            self._reset_seeds()
        self._fresh = False
        self._statistics.restart()
        return self._pool.reset()[0]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start the step in EnvPool's threads."""
        self._pool.send(np.asarray(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step's results; if an episode has ended, the observation is the next episode's first."""
        observations, rewards, terminated, truncated, info = self._pool.recv()
        truncated = truncated | (self._statistics.lengths + 1 >= self._limit)
        scores = info["reward"] if "lives" in info else rewards  # a game's score is not clipped
        dones, infos = self._statistics.step(scores, terminated, truncated)
        if dones.any():
            ended = np.flatnonzero(dones)
            for i in ended.tolist():
                infos[i]["terminal_observation"] = copy_row(observations, i)
            first, info = self._pool.reset(ended.astype(np.int32))
            replace_rows(observations, info["env_id"], first)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """End EnvPool's threads."""
        self._pool.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the pool once per index; ``spec`` is that of Gymnasium's registry.

        Raises:
            AttributeError: If the pool does not have it; single environments are not accessible.
        """
        if attr_name == "spec":
            value: Any = self._spec
        elif hasattr(self._pool, attr_name):
            value = getattr(self._pool, attr_name)
        else:
            raise AttributeError(f"EnvPool's {self._env_id} has no attribute {attr_name!r}; {_INSIDE}")
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raise an error: EnvPool's environments cannot be changed.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"EnvPool's {self._env_id} cannot set {attr_name!r}; {_INSIDE}")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call ``render``; raise an error for any other method.

        Raises:
            NotImplementedError: If the method is not ``render``.
        """
        if method_name != "render":
            raise NotImplementedError(f"EnvPool's {self._env_id} cannot call {method_name!r}; {_INSIDE}")
        return [self._pool.render(i, *method_args, **method_kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return True for SB3's ``Monitor``, since infos have its entry ``episode``; False for all others."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> list[NDArray[np.uint8]]:
        """Return a frame (height, width, 3) of each environment."""
        return list(self._pool.render(np.arange(self.num_envs, dtype=np.int32)))


_INSIDE = "its environments are C++ objects; use vec_env='dummy' to access them"


def _import_envpool() -> Any:
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise MissingExtraError(
            f"cannot import envpool ({type(error).__name__}: {error}); "
            f"install it: {install_command('envpool')}"
        ) from error


def _find_spaces(
    pool: Any, spec: EnvSpec | None, task_kwargs: dict[str, Any]
) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return observation and action space: Gymnasium's own if it can build the task, else EnvPool's.

    EnvPool's spaces differ in details that do not affect a step (float64 actions, bounds), but SB3 compares
    spaces when it loads a model.
    """
    observation, action = pool.observation_space, pool.action_space
    if isinstance(action, spaces.Box):
        action = spaces.Box(action.low.astype(np.float32), action.high.astype(np.float32), dtype=np.float32)
    if spec is None:
        return observation, action
    try:
        env = gym.make(spec, **task_kwargs)
    except (gym.error.Error, ImportError, TypeError):  # TypeError: an option that only EnvPool has
        return observation, action
    theirs = env.observation_space, env.action_space
    env.close()
    for ours, gymnasium in zip((observation, action), theirs, strict=True):
        if _describe_layout(ours) != _describe_layout(gymnasium):
            raise ValueError(
                f"EnvPool's {spec.id} has the space {ours}, Gymnasium's has {gymnasium}: "
                "it is another task; use vec_env='auto'"
            )
    return theirs


def _describe_layout(space: Any) -> tuple[Any, ...]:
    """Return what must be equal in two spaces for their elements to be interchangeable."""
    return type(space), space.shape, space.dtype, getattr(space, "n", None)
