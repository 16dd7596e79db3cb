"""Write progress.csv: one row per update, in a file that survives a crash and can be rewound."""

import csv
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from agents.untrusted_file import MOST_TEXT, reading
from experiments.run.atomic_file import replacing
from experiments.terminal import show

MOST_CELLS = 5_000_000
FORMAT = "csv"  # SB3's name of this format; SB3 excludes by it what the format cannot hold, e.g. figures


class CsvLog(KVWriter):
    """Write rows of numbers, as SB3's CSV writer does, but keep an existing file and survive a crash.

    SB3's writer truncates an existing file, and rewrites the file in place for every new column.

    Args:
        path: path of the file; rows are appended to an existing one.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: an existing file is not CSV, or too large.
    """

    def __init__(self, path: Path):
        self.path = path
        table = read_table(path) if path.exists() else []
        write_table(path, table)  # drops an incomplete last line, and replaces a link by a file
        self.columns, self.rows = (table[0] if table else []), max(len(table) - 1, 0)
        self._file = self._open()

    def _open(self) -> TextIO:
        file = self.path.open("a+", newline="", encoding="utf-8")
        self._opened = os.fstat(file.fileno())
        return file

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append a row, and add a column for each new name.

        Raises:
            OSError: e.g. the disk is full.
        """
        values = filter_excluded_keys(key_values, key_excluded, FORMAT)
        new = sorted(values.keys() - set(self.columns))
        if new:
            self._widen(new)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([values.get(name) for name in self.columns])
        try:
            self._keep()
            self._file.write(line.getvalue())  # a complete row in one call
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.rows += 1

    def _keep(self) -> None:
        """Write the file again if another program has deleted or replaced it; the open one has its content.

        Raises:
            OSError: the folder was deleted, too.
        """
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), self._opened):
                return
        self._file.seek(0)
        with replacing(self.path) as file:
            file.write(self._file.read().encode())
        self._file.close()
        self._file = self._open()
        show(f"{self.path} was deleted or replaced by another program; it is written again", error=True)

    def _widen(self, new: list[str]) -> None:
        self._keep()
        table = read_table(self.path)
        self.columns += new
        self._file.close()
        write_table(self.path, [self.columns, *(row + [""] * len(new) for row in table[1:])])
        self._file = self._open()

    def position(self) -> dict[str, int]:
        """Flush the log to disk and return its position."""
        self._keep()
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"rows": self.rows, "columns": len(self.columns)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rewind(path: Path, position: dict[str, int]) -> None:
    """Rewind a log to a position: remove later rows and columns.

    Raises:
        ValueError: the file has fewer rows or columns than the position says.
    """
    table = read_table(path) if path.exists() else []
    found = {"rows": max(len(table) - 1, 0), "columns": len(table[0]) if table else 0}
    if any(found[name] < position[name] for name in found):
        raise ValueError(
            f"{path} has {found['rows']} rows and {found['columns']} columns, fewer than the checkpoint's "
            f"{position['rows']} and {position['columns']}; was it edited? Restore it"
        )
    columns = position["columns"]
    write_table(path, [row[:columns] for row in table[: position["rows"] + 1]] if columns else [])


def read_table(path: Path) -> list[list[str]]:
    """Return the header and all complete rows.

    Raises:
        OSError: see `reading`.
        ValueError: the file is not CSV, or too large.
    """
    table, cells = [], 0
    with reading(path, MOST_TEXT) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            for row in csv.reader(text):
                table.append(row)
                cells += len(row) + 1
                if cells > MOST_CELLS:
                    raise ValueError(f"more than {MOST_CELLS} cells")
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path} is no CSV file of a run: {error}") from None
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        complete = file.read() == b"\n"
    return table if complete else table[:-1]  # a crash may have truncated the last line


def write_table(path: Path, table: list[list[str]]) -> None:
    """Write a table atomically: after a crash, `path` holds either the previous file or the new one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def last_row(path: Path) -> dict[str, str]:
    """Return the last row of a log that another process may be writing; empty if there is none yet."""
    try:
        header, *_, last = read_table(path)
    except (OSError, ValueError, csv.Error):
        return {}
    return dict(zip(header, last, strict=False))
