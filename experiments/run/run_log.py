"""Write the two logs of a run, progress.csv and TensorBoard's events; a resumed run appends to them."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from agents.untrusted_file import UnsafeFileError, reading
from experiments.run.atomic_file import remove_leftovers, replacing
from experiments.run.csv_log import CsvLog, read_table, rewind
from experiments.run.run_folder import RunFolder
from experiments.run.tensorboard_log import SETTINGS, write_settings
from experiments.terminal import show

EVENTS = "events.out.tfevents.*"
STEPS = "time/total_timesteps"
CHUNK = 2**20  # bytes


class RowWriter(KVWriter):
    """Another writer of the log's rows, which a resumed run continues."""

    @abstractmethod
    def start(self, steps: Sequence[int]) -> None:
        """Begin after the rows of these environment steps, which the run does not repeat."""


class RunLog:
    """The logger of a run, with a position that a checkpoint stores.

    Args:
        folder: the run folder.
        position: returned by `position`; both logs are truncated to it, since the run repeats what came
            later. None for new logs.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file is shorter than the position says, or the position is invalid.
    """

    def __init__(
        self,
        folder: RunFolder,
        position: dict[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self._folder = folder.path
        if position is not None:
            self._check_events(position["events"])
            rewind(folder.progress, position["csv"])
            remove_leftovers(self._folder)
            self._rewind_events(position["events"])
        if settings is not None:
            write_settings(self._folder, settings)
        self._csv = CsvLog(folder.progress)
        self.logger = Logger(str(self._folder), [self._csv])
        self._open_events()

    def _open_events(self) -> None:
        before = set(self._folder.glob(EVENTS))
        self._events = TensorBoardOutputFormat(str(self._folder))
        (self._events_path,) = set(self._folder.glob(EVENTS)) - before
        self.logger.output_formats[1:2] = [self._events]

    def add(self, writer: RowWriter) -> None:
        """Also write later rows to this writer."""
        header, *rows = read_table(self._csv.path) or [[]]
        writer.start([int(row[header.index(STEPS)]) for row in rows] if STEPS in header else [])
        self.logger.output_formats.append(writer)

    def position(self) -> dict[str, Any]:
        """Flush both logs to disk and return their position."""
        self._events.writer.flush()
        if not self._events_path.exists():
            show(f"{self._events_path} was deleted by another program; a new one begins", error=True)
            self._open_events()
        sizes = {}
        # The file with the settings is written again when the run is resumed.
        for path in self._folder.glob(EVENTS):
            if path.name.endswith(SETTINGS):
                continue
            with reading(path) as file:
                os.fsync(file.fileno())
                sizes[path.name] = os.fstat(file.fileno()).st_size
        return {"csv": self._csv.position(), "events": sizes}

    def _check_events(self, sizes: dict[str, int]) -> None:
        """Check the files before any is changed; an untrusted checkpoint may name any file."""
        for path in self._folder.glob(EVENTS):
            if path.is_dir() and not path.is_symlink():
                raise UnsafeFileError(f"{path} is a folder; delete it")
        for name, size in sizes.items():
            path = self._folder / name
            if not fnmatch(name, EVENTS) or path.parent != self._folder:
                raise ValueError(
                    f"the checkpoint names {name!r} as a log of TensorBoard; its name must match {EVENTS}"
                )
            there = 0
            if path.exists():
                with reading(path) as file:
                    there = os.fstat(file.fileno()).st_size
            if there < size:
                raise ValueError(
                    f"{path} has {there} bytes, fewer than the checkpoint's {size}; was it edited? Restore it"
                )

    def _rewind_events(self, sizes: dict[str, int]) -> None:
        for path in self._folder.glob(EVENTS):
            if path.name not in sizes:
                path.unlink()
        for path in (self._folder / name for name in sizes):
            with reading(path) as file, replacing(path) as shortened:  # a copy, since it may be a hard link
                left = sizes[path.name]
                while left > 0 and (chunk := file.read(min(left, CHUNK))):
                    shortened.write(chunk)
                    left -= len(chunk)
