"""Check and convert what a vector environment and one of its environments pass to each other."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.util import obs_space_info

from envs.errors import InvalidResultError

_INTEGER_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_RESET, _STEP = ("observation", "info"), ("observation", "reward", "terminated", "truncated", "info")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.bool, np.number)


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Check what an environment returns, and convert what it receives; used inside SB3's ``Monitor``.

    - An environment with integer actions receives integers of its dtype: floats are rounded, and clipped to
      the bounds of a ``Box``.
    - The reward is converted to a float; NumPy and torch scalars, bool and int are accepted.
    - An observation must have the space's shape, and no value that changes when cast to the space's dtype.
    - The info is copied, since ``Monitor`` and vector environments add entries, and some environments return
      the same dict at every step. The key ``"episode"`` is left to Monitor (see `move_own_episode`). A value
      that cannot be copied to the learner, e.g. a lock, is removed, with a single warning.

    Later steps depend on nothing that this wrapper stores, so states of environments do not include it.

    Args:
        env: An environment whose observation space SB3's vector environments support.
        transfer: Copies a value to the learner as the vector environment does; raises if it cannot.
    """

    def __init__(self, env: gym.Env[Any, Any], transfer: Callable[[Any], Any]) -> None:
        super().__init__(env)
        self._index, self._transfer = 0, transfer
        self._steps = 0
        self._left_out: set[str] = set()
        keys, shapes, dtypes = obs_space_info(env.observation_space)
        self._observation_parts = [(key, shapes[key], np.dtype(dtypes[key])) for key in keys]
        self._exact = self._observation_parts[0][1:] if keys == [None] else None  # for a quick check
        space = env.action_space
        self._integer_space: Any = None
        if isinstance(space, _INTEGER_SPACES) and np.dtype(space.dtype).kind in "iu":
            self._integer_space = space

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment.

        Raises:
            InvalidResultError: If it returns anything but an observation in its space and an info.
        """
        self._steps = 0
        result = self._call("reset", self.env.reset, **kwargs)
        observation, info = self._unpack("reset", result, _RESET)
        self._check_observation("reset", observation)
        return observation, self._clean("reset", info)

    def step(self, action: Any) -> tuple[Any, float, Any, Any, Any]:
        """Step the environment.

        Raises:
            InvalidResultError: If it returns something invalid.
        """
        self._steps += 1
        if self._integer_space is not None:
            action = _to_integers(action, self._integer_space)
        result = self._call("step", self.env.step, action)
        observation, reward, terminated, truncated, info = self._unpack("step", result, _STEP)
        if type(observation) is not np.ndarray or (observation.shape, observation.dtype) != self._exact:
            self._check_observation("step", observation)
        if type(reward) is not float:
            reward = self._to_scalar("reward", reward, float)
        if not (type(terminated) is type(truncated) is bool):
            terminated = self._to_scalar("terminated", terminated, bool)
            truncated = self._to_scalar("truncated", truncated, bool)
        return observation, reward, terminated, truncated, self._clean("step", info)

    def set_index_for_messages(self, index: int) -> None:
        """Set the environment's index in the vector environment, which error messages contain."""
        self._index = index

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute on the inner layer that has it, or else on the environment itself."""
        return self.env.set_wrapper_attr(name, value, force=False) or self.unwrapped.set_wrapper_attr(
            name, value
        )

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except SystemExit as error:  # would end this program without a message
            raise self._error(name, f"it called sys.exit({error.code!r}); raise an error instead") from error
        except Exception as error:
            if not any(note.startswith("raised by ") for note in getattr(error, "__notes__", ())):
                error.add_note(f"raised by {self._where(name)}")
            raise

    def _where(self, method: str) -> str:
        at = f" at step {self._steps} of its episode" if method == "step" else ""
        return f"{method}() of {self._environment()}{at}"

    def _environment(self) -> str:
        return f"environment {self._index}, {self.unwrapped}"

    def _error(self, method: str, message: str) -> InvalidResultError:
        return InvalidResultError(f"{self._where(method)}: {message}")

    def _unpack(self, method: str, result: Any, names: tuple[str, ...]) -> Any:
        if isinstance(result, tuple) and len(result) == len(names):
            return result
        got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise self._error(method, f"it returned {got}; return ({', '.join(names)})")

    def _to_scalar(self, name: str, value: Any, kind: type) -> Any:
        if value is not None and not isinstance(value, str) and getattr(value, "shape", ()) == ():
            try:
                return kind(value)
            except (TypeError, ValueError):
                pass
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise self._error(
            "step",
            f"{name} must be one {'number' if kind is float else 'bool'}, got {value!r:.60} "
            f"({type(value).__name__}{shape}); return a {kind.__name__}",
        )

    def _check_observation(self, method: str, observation: Any) -> None:
        for key, shape, dtype in self._observation_parts:
            what = "the observation" if key is None else f"the observation's {key!r}"
            try:
                array = np.asarray(observation if key is None else observation[key])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise self._error(
                    method,
                    f"{what} is missing or not an array ({type(error).__name__}: {error}); "
                    f"return an element of {self.observation_space}",
                ) from error
            if array.shape != shape:
                raise self._error(
                    method, f"{what} has shape {array.shape}, its space {shape}; return the space's shape"
                )
            if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
                self._check_conversion(method, what, array, dtype)

    def _check_conversion(self, method: str, what: str, array: Any, dtype: np.dtype[Any]) -> None:
        try:
            with np.errstate(invalid="ignore"):
                if np.array_equal(array.astype(dtype), array):
                    return
        except (TypeError, ValueError):
            pass
        raise self._error(
            method,
            f"{what} is of {array.dtype} and would change as {dtype}; return the space's dtype, or "
            f"declare a space of {array.dtype}",
        )

    def _clean(self, method: str, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._error(method, f"the info must be a dict, got {type(info).__name__}; return {{}}")
        info = dict(info)
        move_own_episode(info)
        for key, value in list(info.items()):
            if isinstance(value, _PLAIN) or (type(value) is np.ndarray and value.dtype.kind != "O"):
                continue
            try:
                self._transfer(value)
            except Exception as error:
                del info[key]
                if key not in self._left_out:
                    self._left_out.add(key)
                    warnings.warn(
                        f"{self._where(method)}: info[{key!r}] cannot be copied ({error}); it is left out of "
                        "the infos, return plain data",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        return info


def move_own_episode(info: dict[str, Any]) -> None:
    """Rename an environment's own info ``"episode"`` to ``"env_episode"``, since ``Monitor`` uses that key.

    An entry from Gymnasium's ``RecordEpisodeStatistics`` is removed, since it equals Monitor's.
    """
    if "episode" in info:
        own = info.pop("episode")
        if not (isinstance(own, dict) and {"r", "l", "t"} <= own.keys()):
            info["env_episode"] = own


def _to_integers(action: Any, space: Any) -> Any:
    """Return an action in the dtype of an integer space: rounded, and clipped to the bounds of a ``Box``."""
    if isinstance(action, int) or getattr(action, "dtype", None) == space.dtype:
        return action
    values = np.asarray(action)
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    with np.errstate(invalid="ignore"):
        result = rounded.astype(space.dtype)
    if isinstance(space, spaces.Box):
        # Compare the values before the conversion, which may overflow.
        return np.where(rounded <= space.low, space.low, np.where(rounded >= space.high, space.high, result))
    return result[()]
