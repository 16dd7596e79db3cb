"""The folder that one run writes."""

import itertools
import json
import os
import pickle
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.untrusted_file import UnsafeFileError, read_text, reject_link
from experiments.algorithms import folder_name
from experiments.run import plain_yaml
from experiments.run.atomic_file import replacing
from experiments.run.checkpoint_schema import check_content
from experiments.run.checkpoints import Checkpoints, NoValidCheckpointError
from experiments.run.folder_lock import lock_folder
from experiments.run.folder_owner import FolderOwner
from experiments.settings.run_settings import RunSettings
from experiments.terminal import show

MOST_EVALUATION = 16 * 2**20  # bytes


class RunInUseError(FileExistsError):
    """Another command is writing into the run folder."""


class RunFolder:
    """The folder of one run, `<out>/<env>/<algo>/seed-<n>/`.

    It contains config.yaml, progress.csv, TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl if
    the run uses `VecNormalize`, and evaluation.json, which is written last and marks the run as finished.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.progress = self.path / "progress.csv"
        self.model = self.path / "model.zip"
        self.normaliser = self.path / "vecnormalize.pkl"  # as SB3 reads it
        self.evaluation = self.path / "evaluation.json"
        self.tracking = self.path / "tracking.json"  # see `experiments.tracking`
        self._lock: int | None = None
        self._owner: FolderOwner | None = None

    @classmethod
    def of(cls, out: Path, env_id: str, algo: str, seed: int) -> "RunFolder":
        """Return the folder of the run with these settings."""
        return cls(folder_of_task(out, env_id, algo) / f"seed-{seed}")

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.evaluation.exists()

    def check_free(self) -> None:
        """Check that a run can be written here.

        Raises:
            FileExistsError: a finished run is here, or a file is in the place of a folder.
        """
        if self.finished:
            raise FileExistsError(
                f"{self.path} already holds a finished run; choose another --seed or --out, or delete it"
            )
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise FileExistsError(f"{place} is a file; choose another --out")

    def create(self) -> Path | None:
        """Create the folder, and lock it until `close` or the end of this process.

        Returns:
            The new path of an unfinished run that was moved out of the way, or None.

        Raises:
            FileExistsError: a finished run is here.
            RunInUseError: another command is writing into the folder.
            UnsafeFileError: see `claim`.
        """
        self.claim()
        self.check_free()  # again, since another command may have finished a run here before the lock
        aside = None
        if any(self.path.iterdir()):
            names = (self.path.with_name(f"{self.path.name}.unfinished-{n}") for n in itertools.count(1))
            aside = self.path.rename(next(name for name in names if not name.exists()))
            self.claim()
        self.checkpoints.mkdir(parents=True)
        return aside

    def claim(self) -> None:
        """Create the folder if missing, and lock it against other commands until `close` or exit.

        Raises:
            RunInUseError: another command is writing into the folder.
            UnsafeFileError: checkpoints/ is a link, which could point anywhere, or a file of the run is not a
                regular file.
        """
        self.close()
        self.path.mkdir(parents=True, exist_ok=True)
        reject_link(self.checkpoints)
        files = (self.config, self.progress, self.model, self.normaliser, self.evaluation, self.tracking)
        for path in (*files, *self.checkpoints.glob("*.ckpt")):
            if path.exists() and not path.is_file():
                raise UnsafeFileError(f"{path} is no regular file; delete it")
        try:
            self._lock = lock_folder(self.path)
            with suppress(PermissionError):  # of the folder above, in which the record would be
                self._owner = FolderOwner(self.path)
        except BlockingIOError as error:
            self.close()
            detail = "" if error.errno else f" ({error})"  # of the owner on another host
            raise RunInUseError(
                f"another command is writing into {self.path}{detail}; wait for it, or choose another --seed "
                "or --out"
            ) from None

    def close(self) -> None:
        """Release the lock, and remove the record of the owner."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, agent: OnPolicyAlgorithm) -> None:
        """Write model.zip, and vecnormalize.pkl if the agent has a `VecNormalize`."""
        with replacing(self.model) as file:
            agent.save(file)  # type: ignore[arg-type]  # the file is a BufferedRandom
        if (normaliser := agent.get_vec_normalize_env()) is not None:
            with replacing(self.normaliser) as file:
                pickle.dump(normaliser, file)

    def read_checkpoint(self, name: str | None = None) -> tuple[Path, dict[str, Any]]:
        """Return path and content of the newest valid checkpoint; print the rejected ones to stderr.

        Args:
            name: the name of the checkpoint to read instead, e.g. best.

        Raises:
            OSError: checkpoints/ is a link.
            ValueError: there is no valid checkpoint, or its content is not a run's.
        """
        checkpoints = Checkpoints(self.checkpoints)
        try:
            path, content = checkpoints.newest_valid(name)
        except NoValidCheckpointError as error:
            model = shlex.quote(str(self.model))
            raise ValueError(
                f"{error}\nRestore checkpoints/, or repeat the run. With model.zip alone, if you trust it: "
                f"TRPO.load('model.zip'), or npg export {model} --algo trpo"
            ) from None
        for rejected in checkpoints.rejected:
            show(f"rejected: {rejected}", error=True)
        try:
            check_content(content)
        except ValueError as error:
            raise ValueError(f"{path} has a checkpoint's format, but no run's content: {error}") from None
        return path, content

    def write_config(self, document: Mapping[str, Any]) -> None:
        """Write config.yaml, e.g. what `RunSettings.document` returns."""
        with replacing(self.config) as file:
            file.write(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True).encode())

    def read_settings(self) -> RunSettings:
        """Return the settings in config.yaml.

        Raises:
            OSError: config.yaml cannot be read.
            ValueError: this is no run folder, or config.yaml is damaged.
        """
        if not self.config.exists():
            raise ValueError(
                f"expected a run folder such as runs/CartPole-v1/trpo/seed-0, got {self.path}, "
                "which has no config.yaml"
            )
        document = plain_yaml.read(self.config)
        try:
            return RunSettings.from_document(document)
        except ValueError as error:
            raise ValueError(f"{self.config} is damaged: {error}; restore it, or train again") from None

    def write_evaluation(self, result: Mapping[str, Any]) -> None:
        """Write evaluation.json, which marks the run as finished; it is the last file of a run."""
        write_json(self.evaluation, result)

    def read_evaluation(self) -> dict[str, Any]:
        """Return the mapping in evaluation.json; empty if there is none.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not JSON.
        """
        if not self.finished:
            return {}
        try:
            result = json.loads(read_text(self.evaluation, MOST_EVALUATION))
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{self.evaluation} is damaged: {error}; delete it") from None
        return result if isinstance(result, dict) else {}


def folder_of_task(out: Path, env_id: str, algo: str) -> Path:
    """Return `<out>/<env>/<algo>/`, with "-" for slashes and colons, which mean something to PATH and rsync.

    If there is a folder named with them, as version 0.1 made it for "module:Name-v0", it is used.
    """
    older = out / env_id
    return (older if older.is_dir() else out / folder_name(env_id)) / folder_name(algo)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a mapping as JSON."""
    with replacing(path) as file:
        file.write((json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
