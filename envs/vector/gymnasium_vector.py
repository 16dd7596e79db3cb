"""Any Gymnasium vector environment as an SB3 vector environment."""

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from envs.checked_env import move_own_episode
from envs.observations import copy_observations, copy_row, replace_rows, select_rows
from envs.vector.episode_statistics import EpisodeStatistics
from envs.vector.partial_reset import PartialReset, find_partial_reset

Info = dict[str, Any]


class GymnasiumVecEnv(VecEnv):
    """A Gymnasium ``VectorEnv`` in any autoreset mode, with SB3's semantics.

    A step returns one transition per environment. If an episode ends, the observation is the first of the
    next episode, and the last one is in ``infos[i]["terminal_observation"]``. The three modes give bitwise
    equal results:

    - SAME_STEP resets in this way by itself;
    - DISABLED resets environments on request, by ``options["reset_mask"]``;
    - NEXT_STEP, Gymnasium's default, would use the whole next step for the reset, and return a transition
      that ignores its action. Instead, environments are reset before that step (see `find_partial_reset`).

    Episodes are recorded as SB3's ``Monitor`` does, so that no Monitor is needed (`env_is_wrapped` reports
    one). Infos are Gymnasium's, converted to one dict per environment with the keys that it has (see also
    `move_own_episode`); those of a reset are in ``reset_infos``. Rewards are float32, as in SB3's
    ``DummyVecEnv``.
    """

    def __init__(
        self, vector_env: VectorEnv[Any, Any, Any], *, partial_reset: PartialReset | None = None
    ) -> None:
        """Wrap the vector environment, which must not be stepped elsewhere.

        Args:
            vector_env: The vector environment, e.g. from ``gymnasium.make_vec``.
            partial_reset: For a NEXT_STEP environment for which `find_partial_reset` finds no function. It
                takes the vector environment and a mask (n,), resets only the environments where the mask is
                true, and returns the observations (n, ...) and infos of all.

        Raises:
            ValueError: If the vector environment does not declare its autoreset mode, or if that is
                NEXT_STEP and it cannot reset some environments without stepping the others.
        """
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"expected metadata['autoreset_mode'] to be a gymnasium.vector.AutoresetMode, got {mode!r} "
                f"from {vector_env}; set it to what the environment does when an episode ends"
            )
        self.vector_env = vector_env
        self._actions: Any = None
        self._partial_reset: PartialReset | None = None
        if mode is not AutoresetMode.SAME_STEP:
            self._partial_reset = partial_reset or find_partial_reset(vector_env)
        self._statistics = EpisodeStatistics(vector_env.num_envs)
        super().__init__(
            vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space
        )

    def reset(self) -> VecEnvObs:
        """Reset all environments; after a call of `seed`, environment i with ``seed + i``.

        Raises:
            ValueError: If `set_options` gave the environments different options.
        """
        if any(options != self._options[0] for options in self._options):
            raise ValueError("expected equal reset options; a VectorEnv takes one dict for all environments")
        # Given an int, Gymnasium seeds environment i with seed + i, as SB3 does. A list would not work in
        # natively vectorised environments.
        observations, infos = self.vector_env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._statistics.restart()
        self.reset_infos = _split(infos, self.num_envs)
        return copy_observations(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step, and reset the environments whose episode has ended."""
        observations, rewards, terminated, truncated, infos = self.vector_env.step(self._actions)
        observations = copy_observations(observations)
        dones, counted = self._statistics.step(
            np.asarray(rewards), np.asarray(terminated), np.asarray(truncated)
        )
        split = _split(infos, self.num_envs, leave_out=("final_obs", "final_info"))
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            if self._partial_reset is None:
                last = infos["final_obs"]
                final = _split(infos.get("final_info", {}), self.num_envs)
                for i in ended:
                    counted[i]["terminal_observation"] = copy_observations(last[i])
                    self.reset_infos[i], split[i] = split[i], final[i]
            else:
                for i in ended:
                    counted[i]["terminal_observation"] = copy_row(observations, i)
                first, reset_infos = self._partial_reset(self.vector_env, dones)
                replace_rows(observations, dones, select_rows(first, dones))
                begun = _split(reset_infos, self.num_envs)
                for i in ended:
                    self.reset_infos[i] = begun[i]
        for info, more in zip(split, counted, strict=True):
            move_own_episode(info)
            info.update(more)
        return observations, np.asarray(rewards, dtype=np.float32), dones, split

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def has_attr(self, attr_name: str) -> bool:
        """Return whether all environments, or a natively vectorised one, have an attribute."""
        if hasattr(self.vector_env, "call"):  # get_attr of AsyncVectorEnv ends the processes if there is none
            return all(self.vector_env.call("has_wrapper_attr", attr_name))
        return hasattr(self.vector_env, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment, or that of a natively vectorised one, once per index."""
        if hasattr(self.vector_env, "get_attr"):
            values = self.vector_env.get_attr(attr_name)
        else:
            values = [getattr(self.vector_env, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of single environments.

        Raises:
            NotImplementedError: If the vector environment has no single environments.
        """
        if not hasattr(self.vector_env, "set_attr"):
            raise NotImplementedError(f"{self.vector_env} cannot set {attr_name!r}; set it before wrapping.")
        chosen = set(self._get_indices(indices))
        old = [None] * self.num_envs if len(chosen) == self.num_envs else self.get_attr(attr_name)
        self.vector_env.set_attr(attr_name, [value if i in chosen else old[i] for i in range(self.num_envs)])

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of single environments.

        Raises:
            NotImplementedError: If there are no single environments, or only all of them can be called.
        """
        chosen = list(self._get_indices(indices))
        inner = self.vector_env.unwrapped
        if isinstance(inner, SyncVectorEnv):
            methods = [inner.envs[i].get_wrapper_attr(method_name) for i in chosen]
            return [method(*method_args, **method_kwargs) for method in methods]
        if hasattr(self.vector_env, "call") and chosen == list(range(self.num_envs)):
            return list(self.vector_env.call(method_name, *method_args, **method_kwargs))
        raise NotImplementedError(
            f"{self.vector_env} cannot call {method_name!r} of environments {chosen}; use SyncVectorEnv."
        )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return whether environments have a wrapper; True for ``Monitor``, whose infos are made here."""
        inner = self.vector_env.unwrapped
        envs = inner.envs if isinstance(inner, SyncVectorEnv) else None
        return [
            wrapper_class is Monitor or (envs is not None and is_wrapped(envs[i], wrapper_class))
            for i in self._get_indices(indices)
        ]

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Return a frame of each environment."""
        frames: Any = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)


def _split(infos: Info, n_envs: int, leave_out: Iterable[str] = ()) -> list[Info]:
    """Return one dict per environment, with the keys that it has.

    In Gymnasium's infos, each key has an array (n,) or a dict of such arrays, and ``_key`` has a mask (n,) of
    the environments that have the key.
    """
    split: list[Info] = [{} for _ in range(n_envs)]
    for key, values in infos.items():
        if key in leave_out or (key.startswith("_") and key[1:] in infos):
            continue
        mask = infos.get(f"_{key}")
        holders = range(n_envs) if mask is None else np.flatnonzero(mask)
        if isinstance(values, dict):
            values = _split(values, n_envs)
        for i in holders:
            split[i][key] = values[i]
    return split
