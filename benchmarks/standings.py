"""Who is fastest, and by how much."""

from math import inf
from statistics import median
from typing import Any

from measurement import Ratio, progress
from setups import Setup

PEERS = ("sb3-contrib", "tianshou")


class Standings:
    """Steps a second of set-ups that took turns.

    Args:
        taking_part: the set-ups.
        results: what every round measured, by the set-up's name; those that failed are missing.
    """

    def __init__(self, taking_part: list[Setup], results: dict[str, list[dict[str, float]]]):
        self.speeds = {s: speeds(results[str(s)]) for s in taking_part if str(s) in results}

    def fastest(
        self, library: str, vec_env: str | None = None, n_envs: int | None = None, at_most: float = inf
    ) -> Setup | None:
        """Return a library's fastest set-up, of a kind and number of environments; None without any."""
        chosen = [
            s
            for s in self.speeds
            if s.library == library
            and vec_env in (None, s.vec_env)
            and n_envs in (None, s.n_envs)
            and s.n_envs <= at_most
        ]
        return max(chosen, key=lambda s: median(self.speeds[s]), default=None)

    def ratio(self, faster: Setup, slower: Setup) -> Ratio:
        """Return how many times faster one is than another."""
        return Ratio.between(self.speeds[faster], self.speeds[slower])

    def row(self, name: str, series: list[float]) -> dict[str, Any]:
        """Return a row of the table: speed, and ratios over the peers' fastest set-ups."""
        row: dict[str, Any] = {"set-up": name, "steps/s": median(series)}
        row["lowest"], row["highest"] = min(series), max(series)
        for library in PEERS:
            peer = self.fastest(library)
            if peer is not None:
                row[f"over {library}'s best"] = str(Ratio.between(series, self.speeds[peer]))
        return row


def speeds(turns: list[dict[str, float]]) -> list[float]:
    """Return the steps a second of every turn."""
    return [turn["steps_per_s"] for turn in turns]


def installed(everybody: list[Setup]) -> list[Setup]:
    """Return those that can take part, and say who cannot."""
    for setup in everybody:
        if not setup.installed:
            progress(f"{setup} takes no part: not installed")
    return [setup for setup in everybody if setup.installed]
