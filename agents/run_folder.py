"""The folder that one run writes."""

import itertools
import json
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from agents.configuration import Configuration

PACKAGES = ("npg-toolkit", "torch", "gymnasium", "stable-baselines3", "numpy", "mujoco")


class RunFolder:
    """`<out>/<env>/<algo>/seed-<n>/`, with everything that one run leaves behind.

    config.yaml, progress.csv and TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl where
    observations are normalised, and last evaluation.json, which says that the run is finished.
    """

    def __init__(self, out: Path, env_id: str, algo: str, seed: int):
        self.path = out / env_id / algo / f"seed-{seed}"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model.zip"
        self.normaliser = self.path / "vecnormalize.pkl"
        self.evaluation = self.path / "evaluation.json"

    def check_free(self) -> None:
        """Check that no finished run is here.

        Raises:
            FileExistsError: one is, or the place is taken by something else.
        """
        if self.evaluation.exists():
            raise FileExistsError(
                f"{self.path} already holds a finished run; choose another --seed or --out, or delete it"
            )
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise FileExistsError(f"{place} is a file; choose another --out")

    def create(self) -> Path | None:
        """Make the folder; an unfinished run in its place is moved aside, and where to is returned."""
        aside = None
        if self.path.exists() and any(self.path.iterdir()):
            names = (self.path.with_name(f"{self.path.name}.unfinished-{n}") for n in itertools.count(1))
            aside = self.path.rename(next(name for name in names if not name.exists()))
        self.checkpoints.mkdir(parents=True)
        return aside

    def write_config(self, configuration: Configuration, **run: Any) -> None:
        """Write config.yaml: the resolved configuration and the versions that the run is made with."""
        settings = asdict(configuration)
        hyperparameters = dict(settings.pop("hyperparameters"))
        document = {**run, **settings, "hyperparameters": hyperparameters, "versions": versions()}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text)

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Write evaluation.json, and so declare the run finished."""
        self.evaluation.write_text(json.dumps(result, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return what produces a run: Python, packages, and the commit of this checkout if it is one."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.CalledProcessError):  # installed without its repository
        found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return found
