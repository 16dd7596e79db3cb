"""Draw docs/reading-curves/*.png, the figures of docs/reading-curves.md, and print the numbers it quotes.

    python benchmarks/reading_curves.py                     # five pairs of short runs, in a few minutes
    python benchmarks/reading_curves.py --folder runs/mine  # keep the runs here; finished ones are reused

Every figure compares a run with a symptom and one without it, which differs in a setting. This needs the
`figures` extra.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import tyro

from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.train import main as train

ROOT = Path(__file__).parents[1]
STEPS, RETURN = "time/total_timesteps", "rollout/ep_rew_mean"
MINIBATCHES = ("n_steps=16", "critic_fit=minibatch", "batch_size=32")
COLOURS = ("#d55e00", "#0072b2")  # the run with the symptom, and the other
DECADE = {"npg/kl", "npg/cg_residual", "train/value_loss"}  # logarithmic if they span one


@dataclass(frozen=True)
class Case:
    """Two runs, with and without a symptom.

    Attributes:
        env: the task.
        algo: the algorithm.
        steps: steps of each run.
        runs: labels, and the settings of `--set`; the run with the symptom first.
        columns: columns of progress.csv to draw, besides the return.
    """

    env: str
    algo: str
    steps: float
    runs: dict[str, tuple[str, ...]]
    columns: tuple[str, ...]


CASES = {
    "delta-too-large": Case(
        "CartPole-v1",
        "npg",
        4e4,
        {"target_kl=1": ("target_kl=1",), "target_kl=0.01": ("target_kl=0.01",)},
        ("npg/kl", "npg/gain_ratio"),
    ),
    "cg-not-converging": Case(
        "Pendulum-v1",
        "npg",
        5e4,
        {
            "cg_max_steps=2, cg_damping=1e-5": ("cg_max_steps=2", "cg_damping=1e-5"),
            "15 and 0.1": (),
        },
        ("npg/cg_residual", "npg/kl"),
    ),
    "critic-overfitting": Case(
        "CartPole-v1",
        "trpo",
        1.5e4,
        {
            "30 passes, rate 1e-2": (*MINIBATCHES, "n_critic_updates=30", "learning_rate=1e-2"),
            "5 passes, rate 1e-3": (*MINIBATCHES, "n_critic_updates=5", "learning_rate=1e-3"),
        },
        ("train/value_loss", "train/explained_variance"),
    ),
    "entropy-collapse": Case(
        "MountainCarContinuous-v0",
        "trpo",
        4e4,
        {"independent noise": (), "use_sde=true": ("use_sde=true",)},
        ("train/std", "train/explained_variance"),
    ),
    "line-search-rejecting": Case(
        "CartPole-v1",
        "trpo",
        4e4,
        {
            "target_kl=5, cg_damping=1e-4": ("target_kl=5", "cg_damping=1e-4"),
            "0.01 and 0.1": (),
        },
        ("npg/backtracks", "npg/rejected/no_improvement"),
    ),
}


def log_of(case: Case, settings: tuple[str, ...], folder: Path) -> pd.DataFrame:
    """Return the log of a run, which is made if it is not there yet."""
    run = RunFolder.of(folder, case.env, case.algo, 0)
    if not run.finished:
        arguments = Arguments(
            algo=(case.algo,),
            env=(case.env,),
            steps=case.steps,
            set=(settings,) if settings else (),
            out=folder,
            device="cpu",
            vec_env="dummy",
            episodes=20,
        )
        if train(arguments) != 0:
            raise SystemExit(f"the run in {run.path} failed")
    return pd.read_csv(run.progress)


def draw(name: str, case: Case, folder: Path, out: Path) -> None:
    """Draw a figure, and print the mean of each column over the last tenth of the updates."""
    columns = (RETURN, *case.columns)
    figure, axes = plt.subplots(1, len(columns), figsize=(9.5, 2.6), layout="constrained")
    for k, (label, settings) in enumerate(case.runs.items()):
        log = log_of(case, settings, folder / name / str(k))
        last = log.tail(max(len(log) // 10, 2))
        print(f"{name}: {label}: " + ", ".join(f"{c} {last[c].mean():.4g}" for c in columns))
        for ax, column in zip(axes, columns, strict=True):
            # The last update has a second row at its step.
            shown = log[[STEPS, column]].dropna().drop_duplicates(STEPS)
            ax.plot(shown[STEPS] / 1000, shown[column], color=COLOURS[k], lw=1.2, label=label, zorder=2 - k)
            ax.set_title(column, fontsize=9)
            ax.set_xlabel("environment steps [1000]", fontsize=8)
            ax.tick_params(labelsize=8)
            ax.grid(color="#e6e8eb")
            ax.set_axisbelow(True)
            low, high = ax.dataLim.intervaly
            if column in DECADE and high > 10 * low > 0:
                ax.set_yscale("log")
            if column == "train/explained_variance":
                ax.set_ylim(max(low, -1) - 0.05, 1.05)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{case.algo.upper()} on {case.env}", fontsize=9)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=90)
    plt.close(figure)


def main(folder: Path = Path("runs/reading-curves"), out: Path = ROOT / "docs" / "reading-curves") -> None:
    """Make the runs and draw the figures.

    Args:
        folder: folder of the runs.
        out: folder of the figures.
    """
    for name, case in CASES.items():
        draw(name, case, folder, out)


if __name__ == "__main__":
    tyro.cli(main)
