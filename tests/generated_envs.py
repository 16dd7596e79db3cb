"""Environments of any spaces, rewards, infos and lengths: `AnyEnv`, and a seeded generator of them."""

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from spaces_env import discrete

SAMPLE = "sample"


class AnyEnv(gym.Env):
    """An environment whose observations, rewards and flags are its attributes, which a test sets.

    Args:
        observation_space: To draw observations from.
        action_space: Of the actions, which are kept in `received`.
        reward: Returned as it is; a function is called.
        info: Likewise, as a copy.
        length: Steps of an episode.
        truncates: Whether episodes end by truncation.
        same_info: Whether every step returns the same dict, as it was left.
    """

    observation: Any = SAMPLE
    terminated: Any = SAMPLE
    truncated: Any = SAMPLE
    values = 5  # returned by a step, and 3 fewer by a reset

    def __init__(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        reward: Any = 1.0,
        info: Any = None,
        length: int = 10,
        truncates: bool = False,
        same_info: bool = False,
    ) -> None:
        default = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = default if observation_space is None else observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.reward, self.length, self.truncates = reward, length, truncates
        self.info = {} if info is None else info
        self.same_info = same_info
        self.received: Any = None
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Draw an observation."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return (self.observe(), self.tell())[: self.values - 3] if self.values > 4 else self.observe()

    def step(self, action: Any) -> Any:
        """Check that the action is legal, and keep it."""
        space, self.received = self.action_space, action
        legal = space.contains(action)
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":  # of any float's precision
            legal = np.shape(action) == space.shape and bool(
                np.all((action >= space.low) & (action <= space.high))
            )
        assert legal, f"{action!r} is not in {space}"
        self.time += 1
        over = self.time >= self.length
        terminated = (over and not self.truncates) if self.terminated is SAMPLE else self.terminated
        truncated = (over and self.truncates) if self.truncated is SAMPLE else self.truncated
        return (self.observe(), self.get_reward(), terminated, truncated, self.tell())[: self.values]

    def observe(self) -> Any:
        """Return a random observation, or the one that was set."""
        if isinstance(self.observation, str) and self.observation == SAMPLE:
            return self.observation_space.sample()
        return self.observation

    def get_reward(self) -> Any:
        """Return the reward, with what only a later `set_attr` adds."""
        reward = self.reward() if callable(self.reward) else self.reward
        return reward + self.bonus if hasattr(self, "bonus") else reward

    def tell(self) -> Any:
        """Return the info."""
        return dict(self.info) if isinstance(self.info, dict) and not self.same_info else self.info

    def put(self, key: str, kind: str) -> None:
        """Add something to the info that cannot be copied, and something that can."""
        own = threading.Lock() if kind == "lock" else (i for i in range(3))
        self.info = {**self.info, key: own, "nested": {"a": [1]}}


FLOATS = [np.float32, np.float64, np.float16]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16]


class Generator:
    """Draw arguments of `AnyEnv`, the same for a seed.

    Args:
        seed: A number per environment.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def draw(self) -> dict[str, Any]:
        """Return arguments."""
        return {
            "observation_space": self.observations(),
            "action_space": self.actions(),
            "reward": self.reward(),
            "info": self.info(),
            "length": int(self._random.choice([1, 2, 3, 7, 20, 1000])),
            "truncates": self.flip(),
            "same_info": self.flip(),
        }

    def flip(self, probability: float = 0.5) -> bool:
        """Return True so often."""
        return bool(self._random.random() < probability)

    def one_of(self, *choices: Any) -> Any:
        """Return one of them."""
        return choices[int(self._random.integers(len(choices)))]

    def observations(self) -> spaces.Space:
        """Return a space, perhaps of several parts, rarely an unsupported one."""
        kind = self._random.random()
        if kind < 0.15:
            return spaces.Dict({name: self.part() for name in "abc"[: self._random.integers(1, 4)]})
        if kind < 0.2:
            return spaces.Tuple([self.part(), self.part()])
        if kind < 0.25:
            return self.one_of(
                spaces.Text(4),
                spaces.Dict({"a": spaces.Dict({"b": self.part()})}),
                spaces.Sequence(self.part()),
                spaces.OneOf([self.part(), self.part()]),
                spaces.Graph(spaces.Box(0, 1, (2,)), None),
                spaces.Dict({}),
            )
        if kind < 0.3:
            return spaces.Box(0, 255, self.one_of((1, 36, 36), (36, 36, 3)), np.uint8)
        return self.part()

    def part(self) -> spaces.Space:
        """Return a space of arrays."""
        return self.one_of(self.box, self.box, self.discrete, self.multi_discrete, self.multi_binary)()

    def actions(self) -> spaces.Space:
        """Return a space, rarely an unsupported one."""
        if self.flip(0.05):
            return self.one_of(spaces.Tuple([self.part(), self.part()]), spaces.Dict({"a": self.part()}))
        return self.part()

    def box(self) -> spaces.Box:
        """Return floats or integers, bounded, half bounded or not."""
        dtype = self.one_of(*FLOATS, *INTEGERS)
        shape = self.one_of((), (1,), (3,), (2, 2), (1, 4))
        floating = np.dtype(dtype).kind == "f"
        low = self.one_of(-np.inf, -2.5, 0.0) if floating else self.one_of(np.iinfo(dtype).min, 0, 5)
        high = self.one_of(np.inf, 0.5, 100.0) if floating else self.one_of(np.iinfo(dtype).max, 5, 20)
        if not floating and low > np.iinfo(dtype).min:
            high = min(high, np.iinfo(dtype).max - 1)  # Gymnasium cannot sample otherwise
        return spaces.Box(low, max(low, high), shape, dtype)

    def discrete(self) -> spaces.Discrete:
        """Return one number, rarely not from 0."""
        start = int(self.one_of(-2, 5)) if self.flip(0.1) else 0
        dtype = self.one_of(np.int64, np.int32)
        return discrete(int(self._random.integers(1, 6)), dtype, start)

    def multi_discrete(self) -> spaces.MultiDiscrete:
        """Return several numbers, rarely in rows, or not from 0."""
        counts = self._random.integers(1, 5, (2, 2) if self.flip(0.1) else int(self._random.integers(1, 4)))
        start = np.full_like(counts, 3) if self.flip(0.1) else None
        return spaces.MultiDiscrete(counts, dtype=self.one_of(np.int64, np.int32), start=start)

    def multi_binary(self) -> spaces.MultiBinary:
        """Return bits, rarely in rows."""
        return spaces.MultiBinary([2, 2] if self.flip(0.1) else int(self._random.integers(1, 5)))

    def reward(self) -> Any:
        """Return one number of any type."""
        value = self._random.normal()
        kinds = (float, np.float32, np.float64, np.array, torch.tensor, int, bool, np.bool, np.int8)
        return self.one_of(*kinds)(value)

    def info(self) -> dict[Any, Any]:
        """Return entries of several kinds."""
        entries = {
            "episode": self.one_of(7, None, {"r": "x"}, {}, "text", [1, 2]),
            "is_success": self.flip(),
            "x": float(self._random.normal()),
            "array": np.ones(2),
            "nested": {"a": [1, {"b": None}]},
            "text": "µ",
            "terminal_observation": 3,
            "TimeLimit.truncated": "own",
            "worker": object,
            "objects": np.array([None, "x"], dtype=object),
            "lambda": lambda: 1,
            5: "an integer key",
        }
        return {key: value for key, value in entries.items() if self.flip(0.2)}
