r"""Draw docs/memory.png: CartPole without velocities, with and without memory.

    npg train --algo trpo --env CartPoleHiddenVelocity-v0 --seeds 3 --out with
    npg train --algo trpo --env CartPoleHiddenVelocity-v0 --seeds 3 --out without \
        --config benchmarks/without_memory.yaml
    python benchmarks/memory_curves.py with without

There is one line per seed: the mean return of the last 100 training episodes. This needs the `figures` extra.
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

LINES = {"with memory (LSTM)": "#d55e00", "without memory": "#0072b2"}


def main(*folders: str) -> None:
    """Draw the runs of two folders."""
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    ax = figure.subplots()
    for folder, (label, colour) in zip(folders, LINES.items(), strict=True):
        for i, path in enumerate(sorted(Path(folder).rglob("progress.csv"))):
            log = pd.read_csv(path)[["time/total_timesteps", "rollout/ep_rew_mean"]].dropna()
            ax.plot(*log.to_numpy().T, color=colour, label=label if i == 0 else None)
    ax.set(xlabel="environment steps", ylabel="training return", ylim=(0, 510))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left")
    figure.savefig(Path(__file__).parents[1] / "docs" / "memory.png", dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
