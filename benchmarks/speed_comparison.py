"""Compare the speeds of configurations."""

from math import inf
from statistics import median
from typing import Any

from configurations import Configuration
from measurement import Ratio, progress

PEERS = ("sb3-contrib", "tianshou")


class SpeedComparison:
    """Steps per second of configurations that were measured in the same rounds.

    Args:
        available: the configurations.
        results: {configuration's name: results of every round}; those that failed are missing.
    """

    def __init__(self, available: list[Configuration], results: dict[str, list[dict[str, float]]]):
        self.speeds = {s: steps_per_second(results[str(s)]) for s in available if str(s) in results}

    def fastest(
        self, library: str, vec_env: str | None = None, n_envs: int | None = None, at_most: float = inf
    ) -> Configuration | None:
        """Return a library's fastest configuration, if given only of this kind and number of environments."""
        chosen = [
            s
            for s in self.speeds
            if s.library == library
            and vec_env in (None, s.vec_env)
            and n_envs in (None, s.n_envs)
            and s.n_envs <= at_most
        ]
        return max(chosen, key=lambda s: median(self.speeds[s]), default=None)

    def ratio(self, faster: Configuration, slower: Configuration) -> Ratio:
        """Return how many times faster one configuration is than another."""
        return Ratio.between(self.speeds[faster], self.speeds[slower])

    def row(self, name: str, series: list[float]) -> dict[str, Any]:
        """Return a row of the table: speed, and ratios over the peers' fastest configurations."""
        row: dict[str, Any] = {"configuration": name, "steps/s": median(series)}
        row["lowest"], row["highest"] = min(series), max(series)
        for library in PEERS:
            peer = self.fastest(library)
            if peer is not None:
                row[f"over {library}'s best"] = str(Ratio.between(series, self.speeds[peer]))
        return row


def steps_per_second(rounds: list[dict[str, float]]) -> list[float]:
    """Return the steps per second of every round."""
    return [result["steps_per_s"] for result in rounds]


def only_installed(configurations: list[Configuration]) -> list[Configuration]:
    """Return the configurations whose packages are installed, and report the others."""
    for configuration in configurations:
        if not configuration.installed:
            progress(f"{configuration} is left out: not installed")
    return [configuration for configuration in configurations if configuration.installed]
