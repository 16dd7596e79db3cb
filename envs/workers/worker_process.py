"""The code that runs in a worker: a block of environments that serves requests."""

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym

from envs.state.environment_state import State, StateUnavailableError, restore_state, take_state
from envs.state.generator_state import GlobalGenerators
from envs.workers.channel import Channel
from envs.workers.infos import pack
from envs.workers.shared_memory import StepArrays


@dataclass(frozen=True)
class Failure:
    """An exception in a worker, as the parent receives it.

    Attributes:
        env_index: The index of the environment that raised it; None if no single environment did.
        error: The exception's type and message.
        traceback: The traceback as Python prints it.
        is_attribute_error: Whether the exception is an AttributeError.
    """

    env_index: int | None
    error: str
    traceback: str
    is_attribute_error: bool


def encode(value: Any) -> bytes:
    """Return a value as bytes for `pickle.loads`; use cloudpickle if pickle fails."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return cloudpickle.dumps(value)


def pickle_job(env_fns: Sequence[Callable[[], gym.Env]], first: int) -> bytes:
    """Return everything that a worker needs to build its environments, for `load_job`.

    Args:
        env_fns: One function per environment. They are pickled by cloudpickle, so lambdas and closures work.
        first: The index of the first environment in the vector environment.
    """
    return pickle.dumps((os.getcwd(), dict(os.environ), sys.path, first, cloudpickle.dumps(list(env_fns))))


def load_job(job: bytes) -> tuple[int, list[Callable[[], gym.Env]]]:
    """Return a job's first index and functions; adopt the parent's folder, environment variables and path."""
    directory, environ, sys.path[:], first, env_fns = pickle.loads(job)
    os.chdir(directory)
    os.environ.update(environ)
    return first, cloudpickle.loads(env_fns)


class EnvBlock:
    """Consecutive environments of the vector environment, all in this process; call `build` first."""

    def __init__(self) -> None:
        self.envs: list[gym.Env] = []
        self.first = 0
        self.current: int | None = None  # index, in the vector environment, of the one being called
        self._begun: Any = [0.0]  # see `StepArrays.begun`
        # This reseeds the generators: otherwise they would return the same numbers in every fork.
        self._generators = GlobalGenerators()

    def build(self, job: bytes) -> tuple[gym.Space, gym.Space, dict[str, Any]]:
        """Build the environments of a job (see `pickle_job`).

        Returns:
            The first environment's observation space, action space and metadata.

        Raises:
            ValueError: If two functions return the same environment.
        """
        self.first, env_fns = load_job(job)
        for index, env_fn in enumerate(env_fns, self.first):
            self._enter(index)
            self.envs.append(env_fn())
        self.current = None
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise ValueError(
                "two env_fns returned the same environment; each must build an environment of its own, "
                "as in `lambda: gym.make('CartPole-v1')`"
            )
        env = self.envs[0]
        return env.observation_space, env.action_space, env.metadata

    def attach(self, descriptor: int, num_envs: int) -> None:
        """Map this block's rows of the arrays that all `num_envs` environments share."""
        arrays = StepArrays(num_envs, self.envs[0].observation_space, self.envs[0].action_space, descriptor)
        os.close(descriptor)
        rows = slice(self.first, self.first + len(self.envs))
        self._rewards, self._dones, self._begun = arrays.rewards[rows], arrays.dones[rows], arrays.begun[rows]
        self._actions = None if arrays.actions is None else arrays.actions[rows]
        self._observations = [
            {key: array[rows] for key, array in buffer.items()} for buffer in arrays.observations
        ]

    def step(self, buffer: int, actions: Any = None) -> tuple[Any, dict[int, Any]] | None:
        """Step every environment, and reset those whose episode ends, as `DummyVecEnv` does.

        Args:
            buffer: The buffer to write the observations to, 0 or 1.
            actions: One per environment; None for the shared actions.

        Returns:
            The packed infos, and {environment: info of its reset} of those that were reset; or None if all
            infos contain only a false "TimeLimit.truncated".
        """
        if actions is None:
            assert self._actions is not None
            actions = self._actions.copy()  # an environment may keep its action
        infos, reset_infos = [], {}
        for row, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            self._enter(self.first + row)
            observation, self._rewards[row], terminated, truncated, info = env.step(action)
            self._dones[row] = done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = observation
                self._enter(self.first + row)
                observation, reset_infos[self.first + row] = env.reset()
            self._write(buffer, row, observation)
            infos.append(info)
        if all(len(info) == 1 and info["TimeLimit.truncated"] is False for info in infos):
            return None
        return pack(infos), reset_infos

    def reset(self, buffer: int, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[Any]:
        """Reset every environment and return the reset infos.

        Args:
            buffer: The buffer to write the observations to, 0 or 1.
            seeds: One per environment.
            options: One dict per environment; an empty one is not passed on.
        """
        infos = []
        for row, (env, seed, option) in enumerate(zip(self.envs, seeds, options, strict=True)):
            self._enter(self.first + row)
            observation, info = env.reset(seed=seed, **({"options": option} if option else {}))
            self._write(buffer, row, observation)
            infos.append(info)
        return infos

    def call(self, function: Callable[[gym.Env], Any], indices: Sequence[int]) -> list[Any]:
        """Return function(env) for each index in the vector environment."""
        results = []
        for index in indices:
            self._enter(index)
            results.append(function(self.envs[index - self.first]))
        return results

    def take_states(self) -> tuple[list[State], Any] | StateUnavailableError:
        """Return every environment's state and that of the global generators, or why there is none."""
        try:
            states = self.call(take_state, range(self.first, self.first + len(self.envs)))
            return states, self._generators.take()
        except StateUnavailableError as error:
            return error

    def restore_states(self, states: Sequence[State], generators: Any) -> Exception | None:
        """Restore the environments and the global generators from `take_states`.

        Returns:
            The exception if that failed, else None.
        """
        try:
            for row, (env, state) in enumerate(zip(self.envs, states, strict=True)):
                self._enter(self.first + row)
                restore_state(env, state)
        except (StateUnavailableError, ValueError) as error:
            return error
        self._generators.restore(generators)
        return None

    def _enter(self, index: int) -> None:
        """Record which environment is called now, for errors, and when, for the parent's timeout."""
        self.current = index
        self._begun[0] = time.monotonic()

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _write(self, buffer: int, row: int, observation: Any) -> None:
        for key, array in self._observations[buffer].items():
            array[row] = observation if key is None else observation[key]


def call_method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], env: gym.Env) -> Any:
    """Call a method of an environment; a lambda in its place would take ten times as long to pickle."""
    return env.get_wrapper_attr(name)(*args, **kwargs)


def serve_requests(channel: Channel) -> None:
    """Serve requests until the parent disconnects or ends, then close the environments.

    A message of one byte requests a step with the shared actions; the byte is the buffer to write to. Any
    other message is a pickled (method of `EnvBlock`, arguments). Every message gets one reply: the pickled
    result or `Failure`, or an empty message for None.
    """
    block = EnvBlock()
    while True:
        try:
            channel.send(_handle(block, channel.receive(), channel))
        except (EOFError, OSError):
            break
    block.close()


def _handle(block: EnvBlock, message: bytes, channel: Channel) -> bytes:
    block.current = None
    try:
        if len(message) == 1:
            result: Any = block.step(message[0])
        else:
            method, args = pickle.loads(message)
            if method == "attach":
                args = (channel.take_descriptor(), *args)
            result = getattr(block, method)(*args)
        block.current = None
        return b"" if result is None else encode(result)
    except BaseException as error:  # SystemExit in an environment is an error too
        return encode(
            Failure(
                block.current,
                f"{type(error).__name__}: {error}",
                traceback.format_exc(),
                isinstance(error, AttributeError),
            )
        )
