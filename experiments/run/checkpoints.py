"""The folder of a run's checkpoints: the last few, and the best."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.run.atomic_file import reject_link
from experiments.run.checkpoint_file import CorruptCheckpointError, read, write
from experiments.terminal import show

NAME = re.compile(r"checkpoint-(\d{9,})\.ckpt")
BEST = "best.ckpt"


class NoValidCheckpointError(ValueError):
    """A folder holds no checkpoint that can be loaded.

    Attributes:
        rejected: the files and the reasons.
    """

    def __init__(self, folder: Path, rejected: list[CorruptCheckpointError]):
        reasons = "".join(f"\n  {error.path.name}: {error.reason}" for error in rejected)
        super().__init__(f"{folder} holds no valid checkpoint{':' if rejected else ''}{reasons}")
        self.rejected = rejected


class Checkpoints:
    """Checkpoints of one run: `checkpoint-000012288.ckpt` after 12288 steps, and `best.ckpt`.

    A process that is killed at any point leaves the last checkpoint or the one before it as the newest.

    Args:
        folder: of the files; made by the first save.
        keep: how many of the last ones stay, at least 1.

    Attributes:
        best: the path of the one with the highest score, a file of its own.
        rejected: the files that the last `newest_valid` rejected, and why.
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

        Checkpoints of later steps, from before a run resumed at an earlier one, are deleted, too.

        Args:
            content: as `experiments.run.checkpoint_file.write` takes it.
            step: environment steps until here, all environments together.
            score: a higher one than that of `best.ckpt` makes this the best as well; None is no score.

        Raises:
            NonFiniteError: a number in content, or the score, is NaN or infinite.
            TypeError: something in content is neither a tensor nor plain data.
            CheckpointWriteError: e.g. the disk is full; earlier checkpoints are intact.
        """
        document = {"score": None if score is None else float(score), "content": content}
        path = self.folder / f"checkpoint-{step:09d}.ckpt"
        if self._saved and not self.folder.exists():
            show(f"{self.folder} was deleted by another program; it is made again", error=True)
        # The best first: a run that is killed between the two resumes from the previous checkpoint and
        # repeats both. In the other order it would resume from this one, and never write the best.
        if score is not None and self._is_best(score):
            write(self.best, document)
            self._best_score = float(score)
        write(path, document)
        self._saved = True
        self._delete_old(step)
        return path

    def paths(self) -> list[Path]:
        """Return the numbered checkpoints, newest first, without `best`."""
        found = (path for path in self.folder.glob("checkpoint-*.ckpt") if NAME.fullmatch(path.name))
        return sorted(found, key=step_of, reverse=True)

    def newest_valid(self, name: str | None = None) -> tuple[Path, Any]:
        """Return path and content of the newest valid checkpoint, or of the best if no other is valid.

        Args:
            name: of the only one to try, e.g. best.

        Raises:
            NoValidCheckpointError: nothing here can be loaded.
            UnsafeFileError: the folder is a link, which could lead anywhere.
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
        if self._best_score is None or not self.best.exists():  # somebody may have deleted it
            try:
                self._best_score = self._read(self.best)["score"]
            except CorruptCheckpointError:  # or there is none yet
                return True
        # NaN compares false, and `write` rejects it.
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
