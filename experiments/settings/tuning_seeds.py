"""Seeds that settings are tuned on, and no reported run has."""

from collections.abc import Iterable

RESERVED = 900_000  # seeds from here on, since an evaluation adds to a run's
# Apart, since a vectorised environment seeds its copies s, s + 1, …
TUNING_SEEDS = (1_000_000, 1_001_000)


def check_reported(seeds: Iterable[int]) -> None:
    """Check that seeds of runs to be reported are none that settings are tuned on.

    Raises:
        ValueError: one may be.
    """
    for seed in seeds:
        if seed >= RESERVED:
            raise ValueError(f"seeds from {RESERVED} on are for tuning; choose one below, got {seed}")
