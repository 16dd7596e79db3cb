"""The folder of a run's checkpoints: the last few, and the best."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.run.checkpoint_file import CorruptCheckpointError, read, write

NAME = re.compile(r"checkpoint-(\d{9,})\.ckpt")
BEST = "best.ckpt"


class NoValidCheckpointError(ValueError):
    """A folder holds no checkpoint that can be loaded.

    Attributes:
        refused: why, for every file.
    """

    def __init__(self, folder: Path, refused: list[CorruptCheckpointError]):
        reasons = "".join(f"\n  {error.path.name}: {error.reason}" for error in refused)
        super().__init__(f"{folder} holds no valid checkpoint{':' if refused else ''}{reasons}")
        self.refused = refused


class Checkpoints:
    """Checkpoints of one run: `checkpoint-000012288.ckpt` after 12288 steps, and `best.ckpt`.

    A process that is killed at any point leaves the last checkpoint or the one before it as the newest.

    Args:
        folder: where they lie; made by the first save.
        keep: how many of the last ones stay, at least 1.

    Attributes:
        best: the path of the one with the highest score, a whole file of its own.
        refused: the files that the last `newest_valid` passed over, and why.

    Raises:
        ValueError: keep is below 1.
    """

    def __init__(self, folder: Path, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.best = self.folder / BEST
        self.refused: list[CorruptCheckpointError] = []
        self._best_score: float | None = None

    def save(self, content: Any, *, step: int, score: float | None = None) -> Path:
        """Write a checkpoint, and only then delete those that it makes superfluous.

        These are the oldest, and those of later steps: a run that went back to an earlier one leaves its
        other future behind.

        Args:
            content: as `experiments.run.checkpoint_file.write` takes it.
            step: environment steps until here, all environments together.
            score: a higher one than that of `best.ckpt` makes this the best as well; None is no score.

        Raises:
            NonFiniteError: a number in content, or the score, is NaN or infinite.
            TypeError: something in content is neither a tensor nor plain data.
            CheckpointWriteError: the disk is full, the folder read-only, …; nothing is lost.
            ValueError: step is negative.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        document = {"score": None if score is None else float(score), "content": content}
        path = self.folder / f"checkpoint-{step:09d}.ckpt"
        # The best first. A run that dies between the two takes up the last checkpoint, and comes by here
        # again; in the other order it would go on from this one, and nobody would know that it was the best.
        if score is not None and self._is_best(score):
            write(self.best, document)
            self._best_score = float(score)
        write(path, document)
        self._delete_superfluous(step)
        return path

    def paths(self) -> list[Path]:
        """Return the checkpoints, newest first; `best` is not among them."""
        found = (path for path in self.folder.glob("checkpoint-*.ckpt") if NAME.fullmatch(path.name))
        return sorted(found, key=step_of, reverse=True)

    def newest_valid(self) -> tuple[Path, Any]:
        """Return path and content of the newest checkpoint that is whole, or of the best where none is.

        Raises:
            NoValidCheckpointError: nothing here can be loaded.
        """
        self.refused = []
        for path in [*self.paths(), *([self.best] if self.best.exists() else [])]:
            try:
                return path, self._read(path)["content"]
            except CorruptCheckpointError as error:
                self.refused.append(error)
        raise NoValidCheckpointError(self.folder, self.refused)

    def load(self, path: Path) -> Any:
        """Return the content of one checkpoint.

        Raises:
            CorruptCheckpointError: it is not whole; says which one to take in its place.
        """
        path = Path(path)
        try:
            return self._read(path)["content"]
        except CorruptCheckpointError as error:
            try:
                advice = f"the newest valid one is {self.newest_valid()[0]}"
            except NoValidCheckpointError:
                advice = f"there is no valid one in {self.folder}"
            raise CorruptCheckpointError(path, f"{error.reason}; {advice}") from error

    def _read(self, path: Path) -> dict[str, Any]:
        document = read(path)
        if not isinstance(document, dict) or document.keys() != {"score", "content"}:
            raise CorruptCheckpointError(path, "it is a file of this format, but holds no run's checkpoint")
        return document

    def _is_best(self, score: float) -> bool:
        if self._best_score is None:
            try:
                self._best_score = self._read(self.best)["score"]
            except CorruptCheckpointError:  # or there is none yet
                return True
        # NaN compares false and goes on to `write`, which refuses it.
        return not (isinstance(self._best_score, float) and score <= self._best_score)

    def _delete_superfluous(self, step: int) -> None:
        paths = self.paths()
        kept = [path for path in paths if step_of(path) <= step][: self.keep]
        for path in paths:
            if path not in kept:
                with suppress(OSError):  # a file too many ends no run, and the next save tries again
                    path.unlink()


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's name carries."""
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not named like a checkpoint, such as checkpoint-000012288.ckpt")
    return int(found[1])
