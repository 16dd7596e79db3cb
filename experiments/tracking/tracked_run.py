"""The description of a run that a tracker receives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import filter_excluded_keys

PROJECT = "npg-toolkit"
STEPS = "time/total_timesteps"


@dataclass(frozen=True)
class TrackedRun:
    """A run, as a tracker is to show it.

    Attributes:
        folder: the run folder.
        id: letters and digits that identify the run; the same when it is resumed.
        name: e.g. "trpo CartPole-v1 seed 0".
        group: the same for all seeds, e.g. "CartPole-v1/trpo".
        settings: content of config.yaml.
        resumed: whether rows of this run were tracked before.
    """

    folder: Path
    id: str
    name: str
    group: str
    settings: Mapping[str, Any]
    resumed: bool


def numbers(key_values: Mapping[str, Any], key_excluded: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the numbers of a row that TensorBoard shows, too."""
    shown = filter_excluded_keys(dict(key_values), dict(key_excluded), "tensorboard")
    numeric = {name: value for name, value in shown.items() if not isinstance(value, str)}
    return {name: float(value) for name, value in numeric.items() if hasattr(value, "__float__")}
