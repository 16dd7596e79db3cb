"""The folder with a run's last few checkpoints and the best one."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.untrusted_file import reject_link
from experiments.run.checkpoint_file import CorruptCheckpointError, read, write
from experiments.terminal import show

NAME = re.compile(r"checkpoint-(\d{9,})\.ckpt")
BEST = "best.ckpt"


class NoValidCheckpointError(ValueError):
    """A folder holds no checkpoint that can be loaded.

    Attributes:
        rejected: one error per rejected file.
    """

    def __init__(self, folder: Path, rejected: list[CorruptCheckpointError]):
        reasons = "".join(f"\n  {error.path.name}: {error.reason}" for error in rejected)
        super().__init__(f"{folder} holds no valid checkpoint{':' if rejected else ''}{reasons}")
        self.rejected = rejected


class Checkpoints:
    """Checkpoints of one run: `checkpoint-000012288.ckpt` after 12288 steps, and `best.ckpt`.

    If the process is killed while saving, the newest valid checkpoint is the one being saved or the one
    before it.

    Args:
        folder: the folder of the files; the first `save` creates it.
        keep: number of latest checkpoints to keep, at least 1.

    Attributes:
        best: path of a separate copy of the checkpoint with the highest score.
        rejected: one error per file that the last call of `newest_valid` rejected.
    """

    def __init__(self, folder: Path, keep: int = 3):
        self.folder = folder
        self.keep = keep
        self.best = self.folder / BEST
        self.rejected: list[CorruptCheckpointError] = []
        self._best_score: float | None = None
        self._saved = False

    def save(self, content: Any, *, step: int, score: float | None = None) -> Path:
        """Write a checkpoint, then delete the oldest ones.

        Checkpoints of later steps are deleted, too: a run that resumed from an earlier one has left them.

        Args:
            content: tensors and plain data; see `experiments.run.plain_data.to_bytes`.
            step: environment steps so far, counted over all environments.
            score: if it is higher than that of `best.ckpt`, this checkpoint also becomes the best; None for
                no score.

        Raises:
            NonFiniteError: a number in the content, or the score, is NaN or infinite.
            TypeError: the content is not tensors and plain data.
            CheckpointWriteError: e.g. the disk is full; earlier checkpoints are intact.
        """
        document = document_of(content, score)
        path = self.folder / f"checkpoint-{step:09d}.ckpt"
        if self._saved and not self.folder.exists():
            show(f"{self.folder} was deleted by another program; it is made again", error=True)
        # The best is written first: a run that is killed between the two writes resumes from the previous
        # checkpoint and repeats both. In the other order it would resume from this one and lose the best.
        if score is not None:
            self.save_best(content, score)
        write(path, document)
        self._saved = True
        self._delete_old(step)
        return path

    def save_best(self, content: Any, score: float) -> None:
        """Write `best.ckpt` if the score is higher than its own; errors as `save`."""
        if self._is_best(score):
            write(self.best, document_of(content, score))
            self._best_score = float(score)

    def paths(self) -> list[Path]:
        """Return the numbered checkpoints, newest first, without `best`."""
        found = (path for path in self.folder.glob("checkpoint-*.ckpt") if NAME.fullmatch(path.name))
        return sorted(found, key=step_of, reverse=True)

    def newest_valid(self, name: str | None = None) -> tuple[Path, Any]:
        """Return path and content of the newest valid checkpoint, or of the best if no other is valid.

        Args:
            name: if given, try only this checkpoint, e.g. best.

        Raises:
            NoValidCheckpointError: no checkpoint can be loaded.
            UnsafeFileError: the folder is a link, which could point anywhere.
        """
        reject_link(self.folder)
        self.rejected = []
        newest = [*self.paths(), *([self.best] if self.best.exists() else [])]
        for path in [self.folder / f"{name.removesuffix('.ckpt')}.ckpt"] if name else newest:
            try:
                return path, self._read(path)["content"]
            except CorruptCheckpointError as error:
                self.rejected.append(error)
        raise NoValidCheckpointError(self.folder, self.rejected)

    def _read(self, path: Path) -> dict[str, Any]:
        document = read(path)
        if not isinstance(document, dict) or document.keys() != {"score", "content"}:
            raise CorruptCheckpointError(
                path, "it has the format of a checkpoint, but not the content of a run's"
            )
        return document

    def _is_best(self, score: float) -> bool:
        if self._best_score is None or not self.best.exists():  # another program may have deleted it
            try:
                self._best_score = self._read(self.best)["score"]
            except CorruptCheckpointError:  # also if there is none yet
                return True
        # If the score is NaN, this is True, and `write` raises NonFiniteError.
        return not (isinstance(self._best_score, float) and score <= self._best_score)

    def _delete_old(self, step: int) -> None:
        paths = self.paths()
        kept = [path for path in paths if step_of(path) <= step][: self.keep]
        for path in paths:
            if path not in kept:
                with suppress(OSError):  # the next save tries again
                    path.unlink()


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(path.stem.removeprefix("checkpoint-"))


def document_of(content: Any, score: float | None) -> dict[str, Any]:
    """Return what the file of a checkpoint holds."""
    return {"score": None if score is None else float(score), "content": content}
