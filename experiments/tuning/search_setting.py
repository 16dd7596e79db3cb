"""One setting that a search varies: where it may lie, and how it is drawn."""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

SIGNIFICANT = 4  # digits of what is tried, so that a file holds exactly that
LINEAR = "lin_"  # RL Zoo's mark of a schedule that falls to 0: its first value is what is searched


class Suggests(Protocol):
    """The part of an Optuna trial that draws."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """Return an integer."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends.

    Args:
        name: of the setting; `policy_kwargs.x` is the policy's option x.
        low: smallest value, of 1 - the setting with `complement`.
        high: largest.
        log: whether the axis is logarithmic.
        integer: whether only integers count.
        complement: whether the axis is 1 - the setting, which tells values near 1 apart.
    """

    name: str
    low: float
    high: float
    log: bool = True
    integer: bool = False
    complement: bool = False

    @property
    def axis(self) -> str:
        """Name of the coordinate that is drawn."""
        return f"1 - {self.name}" if self.complement else self.name

    def coordinate(self, value: Any) -> float | None:
        """Return where a setting's value lies on the axis, or None where it has no place."""
        if isinstance(value, str) and value.startswith(LINEAR):
            value = float(value.removeprefix(LINEAR))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        place = 1 - value if self.complement else value
        return place if math.isfinite(place) and (place > 0 or not self.log) else None

    def including(self, value: Any) -> Self:
        """Return the range, extended to a value that has a place on its axis."""
        place = self.coordinate(value)
        assert place is not None
        return replace(self, low=min(self.low, place), high=max(self.high, place))

    def suggest(self, trial: Suggests) -> float:
        """Draw a coordinate."""
        if self.integer:
            return trial.suggest_int(self.axis, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.axis, self.low, self.high, log=self.log)

    def value(self, coordinate: float, base: Any) -> Any:
        """Return the setting at a coordinate, a schedule where the base has one."""
        if self.integer:
            return int(coordinate)
        value = float(f"{coordinate:.{SIGNIFICANT}g}")
        value = round(1 - value, 12) if self.complement else value
        return f"{LINEAR}{value}" if isinstance(base, str) else value

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """A few values in no order.

    Args:
        name: of the setting, as in `Range`.
        values: to choose from.
    """

    name: str
    values: tuple[Any, ...]

    @property
    def axis(self) -> str:
        """Name of the coordinate that is drawn."""
        return self.name

    def coordinate(self, value: Any) -> Any:
        """Return the value, which is its own coordinate."""
        return value

    def including(self, value: Any) -> Self:
        """Return the choice, extended to a value."""
        return self if value in self.values else replace(self, values=(*self.values, value))

    def suggest(self, trial: Suggests) -> Any:
        """Draw a value."""
        return trial.suggest_categorical(self.name, self.values)

    def value(self, coordinate: Any, base: Any) -> Any:
        """Return the coordinate, which is the value."""
        return coordinate

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Setting = Range | Choice
