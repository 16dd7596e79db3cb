"""Read finished runs from their folders.

No code in a folder is executed, so it is safe to report on untrusted runs.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.report.run_files import RETURN, STEPS, clock_of, read_document, read_log, read_returns
from experiments.run.run_folder import RunFolder
from experiments.settings.run_settings import flattened

FILES = ("config.yaml", "progress.csv", "evaluation.json")
RUN_NAME = re.compile(r"seed-\d+")
REMEDY = {
    "unfinished": "repeat the run's command, which makes it afresh",
    "corrupt": "delete the folder, and repeat the run's command",
}
LEFTOVER = re.compile(r"seed-\d+\.unfinished-\d+")
NO_SETTINGS = {"algo", "env", "seed", "n_timesteps", "versions", "hardware"}  # keys of config.yaml
DEEPEST = 20  # largest depth of folders that are searched
LEAST_PART = 0.9  # least part of the budget in a finished run's log, since not every update is logged


@dataclass(frozen=True)
class LeftOut:
    """A path that the report does not use, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run.

    Attributes:
        path: the run folder.
        algorithm: name in config.yaml, e.g. "npg" or "sb3:ppo".
        environment: Gymnasium id.
        seed: seed of the run.
        budget: requested number of environment steps.
        settings: all other settings; key b of mapping a is named a.b, but hyper-parameters have no prefix.
        versions: versions of Python and packages, and the commit.
        hardware: the machine; empty if unknown.
        config: content of config.yaml as text.
        log: columns of progress.csv, (rows,) each; NaN if a cell is empty.
        evaluation: unnormalised returns of the final deterministic episodes, (episodes,); empty if there were
            none.
        costs: the costs of these episodes, (episodes, m); (0, 0) if the environment reports none.
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
    costs: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def series(self, metric: str, over: str = STEPS) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps (or seconds) and values of a metric, (points,) each; empty if it is not logged."""
        if metric not in self.log:
            return np.empty(0), np.empty(0)
        known = np.isfinite(self.log[over]) & np.isfinite(self.log[metric])
        return self.log[over][known], self.log[metric][known]

    @property
    def clock(self) -> str:
        """Name of the column with the training time in seconds."""
        return clock_of(self.log)


def find_runs(paths: Iterable[Path]) -> tuple[list[RunRecord], list[LeftOut]]:
    """Read all finished runs in folders and in the folders below them.

    Args:
        paths: run folders, or folders that contain some at any depth.

    Returns:
        The runs, and the paths that cannot be used.

    Raises:
        ValueError: there is no usable run.
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
            except Exception as error:  # one invalid folder must not prevent the report on the others
                left_out.append(LeftOut(folder, f"corrupt: {type(error).__name__}: {error}"))
    if not records:
        found = "\n".join(f"  {item.path}: {item.reason}" for item in left_out) or "  no path at all"
        if left_out and all(item.reason.startswith("too short") for item in left_out):
            raise ValueError(f"there is nothing to show of these runs yet:\n{found}")
        raise ValueError(
            "expected folders of finished runs, as train.py writes them (runs/<env>/<algo>/seed-<n>), "
            f"or folders above; got\n{found}\n"
            "Name other folders, or make runs: python train.py --algo npg vpg --env CartPole-v1 --seeds 5"
        )
    return records, left_out


def candidates(path: Path) -> Iterator[Path]:
    """Yield the folders at or below a path that look like runs, even unfinished ones, in a fixed order."""
    deepest = len(path.parts) + DEEPEST
    for place, folders, files in os.walk(path):
        folder = Path(place)
        named = RUN_NAME.fullmatch(folder.name) or LEFTOVER.fullmatch(folder.name)
        if len(folder.parts) >= deepest:
            folders.clear()
        if named or not set(FILES).isdisjoint(files):
            folders.clear()
            yield folder
        # Numbers are compared as numbers: seed-2 comes before seed-10.
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
        )


def read_run(path: Path) -> RunRecord:
    """Read one finished run.

    Raises:
        OSError: a file cannot be read.
        ValueError: the run is not finished, or a file is invalid.
    """
    if LEFTOVER.fullmatch(path.name):
        raise ValueError("left by an interrupted run; its replacement is read instead")
    if not any(path.iterdir()):
        raise ValueError("the folder is empty; delete it, or repeat the run")
    for name in FILES:
        if not (path / name).is_file():
            reason = "unfinished" if name == FILES[-1] else "corrupt"
            raise ValueError(f"{reason}: there is no {name}; {REMEDY[reason]}")
    folder = RunFolder(path)
    document, log = read_document(folder), read_log(folder)
    last, budget = log[STEPS][np.isfinite(log[RETURN])].max(), document["n_timesteps"]
    if last < LEAST_PART * budget:
        raise ValueError(f"corrupt: progress.csv ends at {last:g} of {budget} steps; repeat the run")
    evaluation, costs = read_returns(folder)
    return RunRecord(
        path=path,
        algorithm=document["algo"],
        environment=document["env"],
        seed=document["seed"],
        budget=budget,
        settings=dict(flattened({k: v for k, v in document.items() if k not in NO_SETTINGS})),
        versions=as_texts(document.get("versions")),
        hardware=as_texts(document.get("hardware")),
        config=yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
        log=log,
        evaluation=evaluation,
        costs=costs,
    )


def as_texts(value: Any) -> dict[str, str]:
    """Return a mapping with keys and values as text; empty if the value is no mapping."""
    return {str(key): str(entry) for key, entry in value.items()} if isinstance(value, dict) else {}
