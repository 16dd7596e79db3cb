"""Draw the README's figure from run folders.

    python benchmarks/learning_curves.py runs        # writes docs/learning_curves.png

There is one panel per environment and one line per algorithm: the mean over seeds of the mean return of the
last 100 training episodes, with a band from the lowest to the highest seed. This needs the `figures` extra.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

COLOURS = {"vpg": "#8c8c8c", "npg": "#0072b2", "trpo": "#d55e00"}  # distinguishable for the colour-blind
TASKS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Hopper-v5")


def curve(folder: Path, steps: np.ndarray) -> np.ndarray:
    """Return a run's training return at the given steps; NaN before its first episodes have ended."""
    log = pd.read_csv(folder / "progress.csv")[["time/total_timesteps", "rollout/ep_rew_mean"]].dropna()
    return np.interp(steps, *log.to_numpy().T, left=np.nan)


def main(runs: Path) -> None:
    """Draw docs/learning_curves.png."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(13, 3.2), layout="constrained")
    for ax, task in zip(axes, TASKS, strict=True):
        for algo, colour in COLOURS.items():
            folders = sorted((runs / task / algo).glob("seed-?"))
            if not folders:
                continue
            last = min(
                pd.read_csv(folder / "progress.csv")["time/total_timesteps"].max() for folder in folders
            )
            steps = np.linspace(0, last, 200)
            returns = np.array([curve(folder, steps) for folder in folders])
            ax.fill_between(steps, returns.min(0), returns.max(0), color=colour, alpha=0.18, lw=0)
            ax.plot(steps, returns.mean(0), color=colour, lw=2, label=algo.upper())
        ax.set_title(task, fontsize=11)
        ax.set_xlabel("environment steps")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("training return")
    axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(Path(__file__).parents[1] / "docs" / "learning_curves.png", dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
