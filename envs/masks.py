"""Action masks of environments: which actions are allowed in the current state."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

METHOD = "action_masks"  # the name of the environment's method, as in sb3-contrib


class ActionMasker(gym.Wrapper[Any, Any, Any, Any]):
    """Give an environment the method `action_masks`, as sb3-contrib's wrapper of this name does.

    An environment with such a method of its own needs no wrapper.

    Args:
        env: The environment.
        action_mask_fn: A function of the environment that returns the mask, or the name of a method of the
            environment that does.

    Raises:
        AttributeError: If the environment has no attribute of that name.
        ValueError: If that attribute is not a method.
    """

    def __init__(
        self, env: gym.Env[Any, Any], action_mask_fn: str | Callable[[gym.Env[Any, Any]], Any]
    ) -> None:
        super().__init__(env)
        self._function = action_mask_fn
        if isinstance(action_mask_fn, str) and not callable(env.get_wrapper_attr(action_mask_fn)):
            raise ValueError(
                f"{action_mask_fn!r} of {env.unwrapped} is not a method; name one that returns a mask"
            )

    def action_masks(self) -> Any:
        """Return the mask of the current state."""
        if isinstance(self._function, str):
            return self.env.get_wrapper_attr(self._function)()
        return self._function(self.env)


class AllowedActions(gym.Wrapper[Any, Any, Any, Any]):
    """Replace forbidden actions by allowed ones, so that an environment can be played at random."""

    def step(self, action: Any) -> Any:
        """Step with the action, or with another one if the environment forbids it."""
        if self.env.has_wrapper_attr(METHOD):
            action = allowed(action, self.env.get_wrapper_attr(METHOD)(), self.action_space)
        return self.env.step(action)


def allowed(action: Any, mask: Any, space: gym.Space[Any]) -> Any:
    """Return an action with each forbidden choice replaced: value v by the (v mod m)-th of m allowed values.

    Args:
        action: An element of the space.
        mask: As `action_masks` returns it.
        space: A Discrete, MultiDiscrete or MultiBinary space.
    """
    match space:
        case spaces.Discrete():
            sizes = [int(space.n)]
        case spaces.MultiDiscrete():
            sizes = [int(n) for n in space.nvec]
        case _:
            sizes = [2] * int(np.prod(space.shape))  # type: ignore[arg-type]
    entries = np.asarray(mask, dtype=bool).reshape(-1)
    if len(entries) != sum(sizes):  # training raises an error
        return action
    start = np.reshape(getattr(space, "start", 0), -1)
    chosen = np.array(action).reshape(-1) - start
    for i, part in enumerate(np.split(entries, np.cumsum(sizes)[:-1])):
        values = np.flatnonzero(part)
        if len(values) and not part[chosen[i]]:
            chosen[i] = values[chosen[i] % len(values)]
    return (chosen + start).reshape(np.shape(action)).astype(space.dtype)[()]
