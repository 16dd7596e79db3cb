"""One setting that a search varies: its range and scale. Nothing here imports Optuna."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from agents.registry import Interval

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SIGNIFICANT = 4  # significant digits of a sampled number, so that YAML stores exactly what was tried
LINEAR = "lin_"  # RL Zoo's prefix of a schedule that falls to 0; the search varies its initial value


@dataclass(frozen=True)
class Range:
    """A numerical setting with an interval of values.

    Args:
        name: name of the setting; `policy_kwargs.x` is option x of the policy.
        interval: range and scale of its values.
    """

    name: str
    interval: Interval

    @property
    def axis(self) -> str:
        """Name of the sampled coordinate."""
        return f"1 - {self.name}" if self.interval.complement else self.name

    def coordinate(self, value: Any) -> float | None:
        """Return the coordinate of a value; None if it has none, e.g. 0 on a logarithmic scale."""
        if isinstance(value, str) and value.startswith(LINEAR):
            value = float(value.removeprefix(LINEAR))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        place = 1 - value if self.interval.complement else value
        return place if math.isfinite(place) and (place > 0 or not self.interval.log) else None

    def including(self, value: Any) -> Self:
        """Return the range, extended to include a value that has a coordinate."""
        place = self.coordinate(value)
        assert place is not None
        low, high = min(self.interval.low, place), max(self.interval.high, place)
        return replace(self, interval=replace(self.interval, low=low, high=high))

    def suggest(self, trial: "BaseTrial") -> float:
        """Sample a coordinate."""
        low, high, log = self.interval.low, self.interval.high, self.interval.log
        if self.interval.integer:
            return trial.suggest_int(self.axis, int(low), int(high), log=log)
        return trial.suggest_float(self.axis, low, high, log=log)

    def value(self, coordinate: float, base: Any) -> Any:
        """Return the value at a coordinate; a schedule if the base value is one."""
        if self.interval.integer:
            return int(coordinate)
        value = float(f"{coordinate:.{SIGNIFICANT}g}")
        value = round(1 - value, 12) if self.interval.complement else value
        return f"{LINEAR}{value}" if isinstance(base, str) else value

    def __str__(self) -> str:
        return f"{self.interval.low:g} … {self.interval.high:g}{', logarithmic' if self.interval.log else ''}"


@dataclass(frozen=True)
class Choice:
    """A setting with a few unordered values.

    Args:
        name: name of the setting, as in `Range`.
        values: the values.
    """

    name: str
    values: tuple[Any, ...]

    @property
    def axis(self) -> str:
        """Name of the sampled coordinate."""
        return self.name

    def coordinate(self, value: Any) -> Any:
        """Return the value itself, which is its coordinate."""
        return value

    def including(self, value: Any) -> Self:
        """Return the choice, extended to include a value."""
        return self if value in self.values else replace(self, values=(*self.values, value))

    def suggest(self, trial: "BaseTrial") -> Any:
        """Sample a value."""
        return trial.suggest_categorical(self.name, self.values)

    def value(self, coordinate: Any, base: Any) -> Any:
        """Return the coordinate, which is the value itself."""
        return coordinate

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Setting = Range | Choice
