"""Keep the seeds for tuning apart from those of reported runs."""

from collections.abc import Iterable

RESERVED = 900_000  # the first reserved seed; below the tuning seeds, since evaluation adds to a run's seed
# Far apart, since a vectorised environment seeds its copies with s, s + 1, …
TUNING_SEEDS = (1_000_000, 1_001_000)


def check_reported(seeds: Iterable[int]) -> None:
    """Check that no seed of a run to be reported is reserved for tuning.

    Raises:
        ValueError: a seed is reserved.
    """
    for seed in seeds:
        if seed >= RESERVED:
            raise ValueError(f"seeds from {RESERVED} on are for tuning; choose one below, got {seed}")
