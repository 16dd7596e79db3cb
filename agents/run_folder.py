"""The folder that one run writes."""

import fcntl
import itertools
import json
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.configuration import Configuration
from agents.contenders import folder_name

PACKAGES = ("npg-toolkit", "torch", "gymnasium", "stable-baselines3", "sb3-contrib", "numpy", "mujoco")


class RunInUseError(FileExistsError):
    """Another command is writing into the run folder."""


class RunFolder:
    """`<out>/<env>/<algo>/seed-<n>/`, with everything that one run leaves behind.

    config.yaml, progress.csv and TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl where
    observations are normalised, and last evaluation.json, which says that the run is finished.
    """

    def __init__(self, out: Path, env_id: str, algo: str, seed: int):
        self.path = out / env_id / folder_name(algo) / f"seed-{seed}"
        self.checkpoints = self.path / "checkpoints"
        self.progress = self.path / "progress.csv"
        self.model = self.path / "model.zip"
        self.normaliser = self.path / "vecnormalize.pkl"
        self.evaluation = self.path / "evaluation.json"
        self._lock: int | None = None

    @property
    def finished(self) -> bool:
        """Whether a run ended here as it should."""
        return self.evaluation.exists()

    def check_free(self) -> None:
        """Check that no finished run is here.

        Raises:
            FileExistsError: one is, or the place is taken by something else.
        """
        if self.finished:
            raise FileExistsError(
                f"{self.path} already holds a finished run; choose another --seed or --out, or delete it"
            )
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise FileExistsError(f"{place} is a file; choose another --out")

    def create(self) -> Path | None:
        """Make the folder, and keep other commands out of it until this process ends.

        Returns:
            Where an unfinished run that was in its place lies now, or None.

        Raises:
            RunInUseError: another command is writing into it.
        """
        self._claim()
        aside = None
        if any(self.path.iterdir()):
            names = (self.path.with_name(f"{self.path.name}.unfinished-{n}") for n in itertools.count(1))
            aside = self.path.rename(next(name for name in names if not name.exists()))
            self._claim()
        self.checkpoints.mkdir(parents=True)
        return aside

    def _claim(self) -> None:
        self.release()
        self.path.mkdir(parents=True, exist_ok=True)
        # A lock on the folder itself: it leaves no file behind, and ends with the process however that dies.
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise RunInUseError(
                f"another command is writing into {self.path}; wait for it, or choose another --seed or --out"
            ) from None

    def release(self) -> None:
        """Let other commands in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, agent: OnPolicyAlgorithm) -> None:
        """Write model.zip, and the statistics of `VecNormalize` beside it where the agent has one."""
        agent.save(self.model)
        if (normaliser := agent.get_vec_normalize_env()) is not None:
            normaliser.save(str(self.normaliser))

    def normalised(self, env: VecEnv) -> VecEnv:
        """Return environments with the statistics that lie here, no longer moving; as they are if none do."""
        if not self.normaliser.exists():
            return env
        normalised = VecNormalize.load(str(self.normaliser), env)
        normalised.training = normalised.norm_reward = False
        return normalised

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

    def read_evaluation(self) -> dict[str, Any]:
        """Return what evaluation.json holds; empty for an unfinished run."""
        if not self.finished:
            return {}
        return dict(json.loads(self.evaluation.read_text()))


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
