"""The states of random generators as plain data."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from envs.state.plain_data import Plain, from_plain, to_plain

_BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}


def take_generator(generator: np.random.Generator | None) -> Plain:
    """Returns a generator's state, None for none.

    Raises:
        TypeError: If it is no generator of NumPy's.
    """
    if generator is None:
        return None
    kind = type(getattr(generator, "bit_generator", generator))
    if _BIT_GENERATORS.get(kind.__name__) is not kind:
        raise TypeError(
            f"expected a numpy.random.Generator with one of {sorted(_BIT_GENERATORS)}, got {generator!r}."
        )
    return to_plain(generator.bit_generator.state, "bit_generator.state")


def restore_generator(generator: np.random.Generator | None, state: Plain) -> np.random.Generator | None:
    """Returns a generator in a state: the given one, in case others hold it too, else a new one."""
    if state is None:
        return None
    name = state["bit_generator"]
    if generator is None or type(generator.bit_generator).__name__ != name:
        if name not in _BIT_GENERATORS:
            raise ValueError(f"expected one of {sorted(_BIT_GENERATORS)}, got {name!r} in the state.")
        generator = np.random.Generator(_BIT_GENERATORS[name](0))
    generator.bit_generator.state = from_plain(state)
    return generator


def take_spaces(spaces: Iterable[gym.Space[Any] | None]) -> list[Plain]:
    """Returns the states of what the spaces, and those they are made of, sample with."""
    return [take_generator(space._np_random) for space in _parts(spaces)]


def restore_spaces(spaces: Iterable[gym.Space[Any] | None], states: Sequence[Plain]) -> None:
    """Puts spaces into the states of `take_spaces`.

    Raises:
        ValueError: If the spaces are made of fewer or more than those were.
    """
    for space, state in zip(_parts(spaces), states, strict=True):
        space._np_random = restore_generator(space._np_random, state)  # type: ignore[assignment]


def _parts(spaces: Iterable[Any]) -> Iterator[gym.Space[Any]]:
    for space in spaces:
        if isinstance(space, gym.Space):
            yield space
            for value in vars(space).values():
                children = value.values() if isinstance(value, dict) else value
                yield from _parts(children if isinstance(value, dict | list | tuple) else [value])


class GlobalGenerators:
    """Python's ``random`` and NumPy's ``np.random`` in this process, from a fresh seeding on."""

    def __init__(self) -> None:
        """Seeds both from the operating system."""
        random.seed()
        np.random.seed()  # noqa: NPY002
        self._seeded = self._numbers()

    def take(self) -> Plain:
        """Returns their states; None if nobody has drawn from them or seeded them anew."""
        if self._numbers() == self._seeded:
            return None
        return {
            "python": to_plain(random.getstate()),
            "numpy": to_plain(np.random.get_state(legacy=False)),  # noqa: NPY002
        }

    def restore(self, state: Plain) -> None:
        """Puts both into a state of `take`; None is left alone, as is what nobody has drawn from."""
        if state is not None:
            random.setstate(from_plain(state["python"]))
            np.random.set_state(from_plain(state["numpy"]))  # noqa: NPY002

    def _numbers(self) -> tuple[Any, ...]:
        name, key, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), name, bytes(key), *rest  # type: ignore[arg-type]
