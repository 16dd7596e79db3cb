"""What runs in a rollout worker: a block of environments that obeys messages."""

import os
import pickle
import sys
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
    """An exception in a worker, as its parent gets to know it.

    Attributes:
        env_index: Of the environment that raised it, None if it was none in particular.
        error: Type and message.
        traceback: As Python prints it.
        is_attribute_error: Whether the environment lacks an attribute.
    """

    env_index: int | None
    error: str
    traceback: str
    is_attribute_error: bool


def encode(value: Any) -> bytes:
    """Returns a value as bytes for `pickle.loads`, with cloudpickle where pickle does not do."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        encoded: bytes = cloudpickle.dumps(value)
        return encoded


def describe_job(env_fns: Sequence[Callable[[], gym.Env]], first: int) -> bytes:
    """Returns what a worker must know to build its environments, for `load_job`.

    Args:
        env_fns: One a environment, pickled together by cloudpickle: lambdas and closures do.
        first: The index of the first of them in the whole vector.
    """
    surroundings = (os.getcwd(), dict(os.environ), sys.path)
    return pickle.dumps((*surroundings, first, cloudpickle.dumps(list(env_fns))))


def load_job(job: bytes) -> tuple[int, list[Callable[[], gym.Env]]]:
    """Returns a job's first index and functions, in the surroundings that the parent had then."""
    directory, environ, sys.path[:], first, env_fns = pickle.loads(job)
    os.chdir(directory)
    os.environ.update(environ)
    return first, cloudpickle.loads(env_fns)


class EnvBlock:
    """Environments side by side in the vector, all in this process; `build` comes first."""

    def __init__(self) -> None:
        self.envs: list[gym.Env] = []
        self.first = 0
        self.current: int | None = None  # index in the vector of the environment at work
        # A fork would draw what its siblings draw, in environments that use global generators.
        self._generators = GlobalGenerators()

    def build(self, job: bytes) -> tuple[gym.Space, gym.Space, dict[str, Any]]:
        """Builds the environments of a job, see `describe_job`.

        Returns:
            The first environment's observation space, action space and metadata.

        Raises:
            ValueError: If two functions return the same environment.
        """
        self.first, env_fns = load_job(job)
        for index, env_fn in enumerate(env_fns, self.first):
            self.current = index
            self.envs.append(env_fn())
        self.current = None
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise ValueError(
                "expected every env_fn to build an environment of its own, got one environment twice; "
                "build it inside the function, as in `lambda: gym.make('CartPole-v1')`."
            )
        env = self.envs[0]
        return env.observation_space, env.action_space, env.metadata

    def attach(self, descriptor: int, num_envs: int) -> None:
        """Finds this block's part of the arrays that the vector of `num_envs` environments shares."""
        arrays = StepArrays(num_envs, self.envs[0].observation_space, self.envs[0].action_space, descriptor)
        os.close(descriptor)
        rows = slice(self.first, self.first + len(self.envs))
        self._rewards, self._dones = arrays.rewards[rows], arrays.dones[rows]
        self._actions = None if arrays.actions is None else arrays.actions[rows]
        self._observations = [
            {key: array[rows] for key, array in arrays.observations[slot].items()} for slot in (0, 1)
        ]

    def step(self, slot: int, actions: Any = None) -> tuple[Any, dict[int, Any]] | None:
        """Steps every environment, and resets those whose episode ends, as `DummyVecEnv` does.

        Args:
            slot: Where to write the observations.
            actions: One an environment; None reads the shared ones.

        Returns:
            The packed infos, and the reset infos by index for those that were reset; None if the infos
            hold nothing but a false "TimeLimit.truncated".
        """
        if actions is None:
            assert self._actions is not None
            actions = self._actions.copy()  # an environment may keep its action
        infos, reset_infos = [], {}
        for row, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            self.current = self.first + row
            observation, self._rewards[row], terminated, truncated, info = env.step(action)
            self._dones[row] = done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = observation
                observation, reset_infos[self.current] = env.reset()
            self._write(slot, row, observation)
            infos.append(info)
        if all(len(info) == 1 and info["TimeLimit.truncated"] is False for info in infos):
            return None
        return pack(infos), reset_infos

    def reset(self, slot: int, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[Any]:
        """Resets every environment and returns the reset infos.

        Args:
            slot: Where to write the observations.
            seeds: One an environment.
            options: The same; an empty one is not passed on.
        """
        infos = []
        for row, (env, seed, option) in enumerate(zip(self.envs, seeds, options, strict=True)):
            self.current = self.first + row
            observation, info = env.reset(seed=seed, **({"options": option} if option else {}))
            self._write(slot, row, observation)
            infos.append(info)
        return infos

    def call(self, function: Callable[[gym.Env], Any], indices: Sequence[int]) -> list[Any]:
        """Returns function(env) for each index in the vector."""
        results = []
        for index in indices:
            self.current = index
            results.append(function(self.envs[index - self.first]))
        return results

    def take_states(self) -> tuple[list[State], Any] | StateUnavailableError:
        """Returns every environment's state and the global generators', or why there is none."""
        try:
            states = self.call(take_state, range(self.first, self.first + len(self.envs)))
            return states, self._generators.take()
        except StateUnavailableError as error:
            return error

    def restore_states(self, states: Sequence[State], generators: Any) -> Exception | None:
        """Puts the environments and the global generators into states of `take_states`.

        Returns:
            Why that could not be done, None if it was.
        """
        try:
            for row, (env, state) in enumerate(zip(self.envs, states, strict=True)):
                self.current = self.first + row
                restore_state(env, state)
        except (StateUnavailableError, ValueError) as error:
            return error
        self._generators.restore(generators)
        return None

    def close(self) -> None:
        """Closes every environment."""
        for env in self.envs:
            env.close()

    def _write(self, slot: int, row: int, observation: Any) -> None:
        for key, array in self._observations[slot].items():
            array[row] = observation if key is None else observation[key]


def work(channel: Channel) -> None:
    """Obeys messages until the parent ends the stream or is gone, then closes the environments.

    A single byte asks for a step into that slot with the shared actions; any other message is a pickled
    (method of `EnvBlock`, arguments). Every message gets one reply: the pickled result or
    `Failure`, or no bytes at all for None.
    """
    if hasattr(os, "SCHED_BATCH"):
        # A worker that is woken does not push aside the parent, which has others to wake.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    block = EnvBlock()
    while True:
        try:
            message = channel.receive()
            reply = _reply(block, message, channel)
            channel.send(reply)
        except (EOFError, OSError):
            break
    block.close()


def _reply(block: EnvBlock, message: bytes, channel: Channel) -> bytes:
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
    except BaseException as error:  # sys.exit() in an environment is an error too
        return encode(
            Failure(
                block.current,
                f"{type(error).__name__}: {error}",
                traceback.format_exc(),
                isinstance(error, AttributeError),
            )
        )
