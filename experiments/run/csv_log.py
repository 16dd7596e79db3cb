"""progress.csv: one row an update, in a file that survives a crash and can be taken back."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from experiments.run.atomic_file import read_text, replacing

PICTURES = "csv"  # SB3's name of this format, by which what it cannot hold is excluded


class CsvLog(KVWriter):
    """Rows of numbers under SB3's names, in place of SB3's own writer.

    That one rewrites the whole file in place whenever a new name comes up, and starts anew when it is opened.

    Args:
        path: of the file; one that exists is continued.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self.rows = 0
        table = read_table(path) if path.exists() else []
        write_table(path, table)  # without half a line at its end, and no link
        self.columns, self.rows = (table[0] if table else []), max(len(table) - 1, 0)
        self._file = path.open("a", newline="")

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append a row, with new columns where names are new.

        Raises:
            OSError: the disk is full, say.
        """
        values = filter_excluded_keys(key_values, key_excluded, PICTURES)
        new = sorted(values.keys() - set(self.columns))
        if new:
            self._widen(new)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([values.get(name) for name in self.columns])
        try:
            self._file.write(line.getvalue())  # a whole row at once
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.rows += 1

    def _widen(self, new: list[str]) -> None:
        table = read_table(self.path)
        self.columns += new
        self._file.close()
        write_table(self.path, [self.columns, *(row + [""] * len(new) for row in table[1:])])
        self._file = self.path.open("a", newline="")

    def position(self) -> dict[str, int]:
        """Return where the log stands, once that is safe on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"rows": self.rows, "columns": len(self.columns)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rewind(path: Path, position: dict[str, int]) -> None:
    """Take a log back to a position: rows and columns that came later go.

    Raises:
        ValueError: the file has fewer rows or columns than that.
    """
    rows, columns = position["rows"], position["columns"]
    table = read_table(path) if path.exists() else []
    if max(len(table) - 1, 0) < rows or len(table[0] if table else []) < columns:
        raise ValueError(
            f"expected {rows} rows and {columns} columns in {path}, which the checkpoint counts on, "
            f"got {max(len(table) - 1, 0)} and {len(table[0]) if table else 0}; was it changed by hand?"
        )
    write_table(path, [row[:columns] for row in table[: rows + 1]] if columns else [])


def read_table(path: Path) -> list[list[str]]:
    """Return all lines that are whole, the header first."""
    text = read_text(path)
    whole = text[: text.rfind("\n") + 1]  # a crash may have cut the last one short
    return list(csv.reader(io.StringIO(whole)))


def write_table(path: Path, table: list[list[str]]) -> None:
    """Write the file anew; a crash on the way leaves the old one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def last_row(path: Path) -> dict[str, str]:
    """Return the last row of a log that is being written; empty if there is none yet."""
    try:
        header, *_, last = read_table(path)
    except (OSError, ValueError, csv.Error):
        return {}
    return dict(zip(header, last, strict=False))
