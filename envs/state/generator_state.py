"""The states of random number generators as plain data."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from envs.state.plain_data import Plain, copy_plain

_BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}


def take_generator(generator: np.random.Generator | None) -> Plain:
    """Return a generator's state, or None if there is no generator.

    Raises:
        TypeError: If it is not a NumPy generator of a known kind.
    """
    if generator is None:
        return None
    kind = type(getattr(generator, "bit_generator", generator))
    if _BIT_GENERATORS.get(kind.__name__) is not kind:
        raise TypeError(
            f"expected a numpy.random.Generator with one of {sorted(_BIT_GENERATORS)}, got {generator!r}."
        )
    return copy_plain(generator.bit_generator.state, "bit_generator.state")


def restore_generator(generator: np.random.Generator | None, state: Plain) -> np.random.Generator | None:
    """Return a generator with a given state.

    If the given generator is of the state's kind, it is reused, since other objects may share it.

    Raises:
        ValueError: If the state is of an unknown kind of generator.
    """
    if state is None:
        return None
    name = state["bit_generator"]
    if generator is None or type(generator.bit_generator).__name__ != name:
        if name not in _BIT_GENERATORS:
            raise ValueError(f"the state is of a {name!r}; expected one of {sorted(_BIT_GENERATORS)}.")
        generator = np.random.Generator(_BIT_GENERATORS[name](0))
    generator.bit_generator.state = copy_plain(state)
    return generator


def take_spaces(spaces: Iterable[gym.Space[Any] | None]) -> list[Plain]:
    """Return the states of the generators of all spaces, including spaces inside them."""
    return [take_generator(space._np_random) for space in _walk(spaces)]


def restore_spaces(spaces: Iterable[gym.Space[Any] | None], states: Sequence[Plain]) -> None:
    """Restore spaces from the states of `take_spaces`.

    Raises:
        ValueError: If the numbers of spaces and states differ.
    """
    for space, state in zip(_walk(spaces), states, strict=True):
        space._np_random = restore_generator(space._np_random, state)  # type: ignore[assignment]


def _walk(spaces: Iterable[Any]) -> Iterator[gym.Space[Any]]:
    for space in spaces:
        if isinstance(space, gym.Space):
            yield space
            for value in vars(space).values():
                children = value.values() if isinstance(value, dict) else value
                yield from _walk(children if isinstance(value, dict | list | tuple) else [value])


class GlobalGenerators:
    """The generators of Python's ``random`` and NumPy's ``np.random`` in this process, newly seeded."""

    def __init__(self) -> None:
        """Seed both from the operating system."""
        random.seed()
        np.random.seed()  # noqa: NPY002
        self._seeded = self._read()

    def take(self) -> Plain:
        """Return their states; None if nothing has drawn from them or seeded them since."""
        if self._read() == self._seeded:
            return None
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        }

    def restore(self, state: Plain) -> None:
        """Restore both from a state of `take`; do nothing if it is None."""
        if state is not None:
            random.setstate(state["python"])
            np.random.set_state(state["numpy"])  # noqa: NPY002

    def _read(self) -> tuple[Any, ...]:
        name, key, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), name, bytes(key), *rest  # type: ignore[arg-type]
