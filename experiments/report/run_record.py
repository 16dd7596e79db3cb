"""Finished runs, read back from the folders that they wrote.

Reading executes nothing: YAML by its safe loader, CSV and JSON as text, and never a model or a pickle. A
stranger's folder is safe to report on.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.run_files import (
    RETURN,
    SECONDS,
    STEPS,
    flattened,
    named_texts,
    read_config,
    read_evaluation,
    read_log,
    read_text,
)

FILES = ("config.yaml", "progress.csv", "evaluation.json")
RUN_NAME = re.compile(r"seed-\d+")
REMEDY = {
    "unfinished": "repeat the run's command, which makes it afresh",
    "corrupt": "delete the folder, and repeat the run's command",
}
LEFTOVER = re.compile(r"seed-\d+\.unfinished-\d+")
ABOUT = {"algo", "env", "seed", "versions", "hardware"}  # keys of config.yaml that are no settings
LEAST_PART = 0.9  # of the budget that a finished run's log covers: some algorithms log only now and then


@dataclass(frozen=True)
class LeftOut:
    """A path that the report does not use, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What one finished run left behind.

    Attributes:
        path: the folder.
        algorithm: by its name in config.yaml, such as "npg" or "sb3:ppo".
        environment: Gymnasium's id.
        seed: of the run.
        budget: environment steps that the run was given.
        settings: everything else in config.yaml but versions and hardware, nested mappings as a.b.
        versions: of Python and packages, and the commit.
        hardware: the machine, empty where it is not known.
        config: the text of config.yaml.
        log: columns of progress.csv, (rows,) each, nan where a cell is empty.
        evaluation: returns of the final deterministic episodes, (episodes,), raw; empty if there were none.
    """

    path: Path
    algorithm: str
    environment: str
    seed: int
    budget: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    config: str
    log: Mapping[str, np.ndarray]
    evaluation: np.ndarray

    def series(self, metric: str, over: str = STEPS) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that have a metric, (points,) twice: environment steps or seconds, and values.

        Both are empty where the run does not log it.
        """
        if metric not in self.log:
            return np.empty(0), np.empty(0)
        known = np.isfinite(self.log[over]) & np.isfinite(self.log[metric])
        return self.log[over][known], self.log[metric][known]

    @property
    def clock(self) -> str:
        """The column with the training time in seconds."""
        return next(name for name in SECONDS if name in self.log)

    @property
    def name(self) -> str:
        """What sentences call the run."""
        return f"{self.algorithm} on {self.environment}, seed {self.seed}"


def find_runs(paths: Iterable[Path]) -> tuple[list[RunRecord], list[LeftOut]]:
    """Read every finished run at or below the paths.

    Args:
        paths: of run folders, or of any folders above some.

    Raises:
        ValueError: there is not one usable run.
    """
    records: list[RunRecord] = []
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            what = "a file, not a run folder" if path.exists() else "there is no such folder"
            left_out.append(LeftOut(path, what))
            continue
        folders = list(candidates(path))
        if not folders:
            left_out.append(LeftOut(path, f"no run: neither it nor a folder below has {' and '.join(FILES)}"))
        for folder in folders:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                records.append(read_run(folder))
            except (ValueError, OSError) as error:
                left_out.append(LeftOut(folder, str(error)))
    if not records:
        came = "\n".join(f"  {item.path}: {item.reason}" for item in left_out) or "  no path at all"
        raise ValueError(
            "expected folders of finished runs, as train.py writes them (runs/<env>/<algo>/seed-<n>), "
            f"or folders above; got\n{came}\n"
            "Name other folders, or make runs: python train.py --algo npg vpg --env CartPole-v1 --seeds 5"
        )
    return records, left_out


def candidates(path: Path) -> Iterator[Path]:
    """Yield the folders at or below a path that are, or should be, runs, in a fixed order."""
    for place, folders, files in os.walk(path):
        folder = Path(place)
        named = RUN_NAME.fullmatch(folder.name) or LEFTOVER.fullmatch(folder.name)
        if named or not set(FILES).isdisjoint(files):
            folders.clear()
            yield folder
        # By number: seed-2 comes before seed-10.
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
        )


def read_run(folder: Path) -> RunRecord:
    """Read one finished run.

    Raises:
        ValueError: it is not finished, or a file in it is not what train.py writes.
    """
    if LEFTOVER.fullmatch(folder.name):
        raise ValueError("what an interrupted run left; the run that took its place is read instead")
    if not any(folder.iterdir()):
        raise ValueError("the folder is empty; delete it, or repeat the run")
    for name in FILES:
        if not (folder / name).is_file():
            reason = "unfinished" if name == FILES[-1] else "corrupt"
            raise ValueError(f"{reason}: there is no {name}; {REMEDY[reason]}")
    text = read_text(folder / "config.yaml")
    config = read_config(text)
    budget = config.pop("n_timesteps")
    log = read_log(folder / "progress.csv")
    last = log[STEPS][np.isfinite(log[RETURN])].max()
    if last < LEAST_PART * budget:
        raise ValueError(f"corrupt: progress.csv ends at {last:g} of {budget} steps; repeat the run")
    about = {key: config.pop(key, None) for key in ABOUT}
    return RunRecord(
        path=folder,
        algorithm=about["algo"],
        environment=about["env"],
        seed=about["seed"],
        budget=budget,
        settings=dict(flattened(config)),
        versions=named_texts(about["versions"]),
        hardware=named_texts(about["hardware"]),
        config=text,
        log=log,
        evaluation=read_evaluation(folder / "evaluation.json"),
    )
