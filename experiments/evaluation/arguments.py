"""Evaluate the agent of a run folder.

    npg evaluate runs/CartPole-v1/trpo/seed-0              # 100 deterministic episodes
    npg evaluate runs/Hopper-v5/trpo/seed-0 --video        # and three of them as video.mp4
    npg evaluate runs/Catch-v0/trpo/seed-0 --import envs   # a task that a module registers

Without options, the numbers are those that the end of training wrote into evaluation.json. Episode k starts
from seed N + k, N being --seed: a larger --episodes adds episodes and changes none. Stochastic actions of up
to 16 episodes at a time come from one generator: they are the same for the same --seed and --episodes.

The folder may come from a stranger: only tensors and plain data are read from it, and none of its code runs.
A module that its config.yaml names is imported only if --import names it.
"""

# Nothing here imports torch, so that --help is quick.

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Evaluate the agent of a run folder."""

    run: tyro.conf.Positional[Path]
    """Evaluate the agent in this run folder."""
    episodes: int | None = None
    """Play this many episodes. The default is the number at the end of training, or 100 if that was 0."""
    stochastic: bool = False
    """Sample actions as in training, in place of the most likely ones."""
    seed: int | None = None
    """Start episode k from this seed + k. The default is 10000 plus the run's seed, as at the end of
    training."""
    video: bool = False
    """Record the first three episodes as video.mp4, beside the JSON file."""
    out: Path | None = None
    """Write the numbers into this JSON file. The default is RUN/evaluate.json."""
    import_: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="import")] = ()
    """Import this module first, which registers the environment. Repeatable."""
