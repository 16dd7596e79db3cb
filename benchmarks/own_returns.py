"""Store the runs of the table of returns in compact form, beside those of `peer_returns.py`.

    python benchmarks/own_returns.py runs        # writes benchmarks/returns/<algo>/<env>/seed-<n>.json

The runs are made by

    python train.py --algo trpo npg --env Hopper-v5 Walker2d-v5 HalfCheetah-v5 Ant-v5 Swimmer-v5 Humanoid-v5 \
        --steps 1e6 --seeds 5 --vec-env envpool --jobs 1

A file has config.yaml, the commit, the training curve (steps and mean return of the last 100 episodes, in
about 60 points), the training return at the end, seconds, how many updates had a KL above twice the target,
and every return of the evaluation. Unfinished runs are left out.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.run import plain_yaml
from experiments.run.run_folder import RunFolder

OUT = Path(__file__).parent / "returns"
POINTS = 60
RETURN, STEPS = "rollout/ep_rew_mean", "time/total_timesteps"


@dataclass(frozen=True)
class Arguments:
    """Store finished runs in compact form."""

    runs: Annotated[Path, tyro.conf.Positional]
    """The folder that train.py wrote (--out)."""
    out: Path = OUT
    """Write into this folder."""


def main(arguments: Arguments) -> None:
    """Store every finished run."""
    for config in sorted(arguments.runs.glob("*/*/seed-*/config.yaml")):
        folder = RunFolder(config.parent)
        if not folder.finished:
            print(f"left out, not finished: {folder.path}")
            continue
        row = row_of(folder)
        settings = row["settings"]
        path = arguments.out / settings["algo"] / settings["env"] / f"seed-{settings['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        mean = sum(row["evaluation"]) / len(row["evaluation"])
        print(f"{path}: {mean:.0f}, trained in {row['seconds']:.0f} s")


def row_of(folder: RunFolder) -> dict[str, Any]:
    """Return what is stored of a run."""
    settings = plain_yaml.read(folder.config)
    with folder.progress.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(RETURN)]
    every = -(-len(rows) // POINTS)
    kept = [*rows[::every], *([rows[-1]] if (len(rows) - 1) % every else [])]
    return {
        "settings": settings,
        "commit": settings["versions"]["commit"],
        "training_return": round(float(rows[-1][RETURN]), 2),
        "seconds": float(rows[-1]["time/seconds"]),
        "kl_exceeded": rows[-1].get("npg/kl_exceeded"),
        "curve": [[int(float(row[STEPS])), round(float(row[RETURN]), 2)] for row in kept],
        "evaluation": [round(value, 2) for value in folder.read_evaluation()["returns"]],
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
