"""progress.csv: rows that are never lost, and can be taken back."""

import csv
from pathlib import Path

import pytest

from experiments.run.csv_log import CsvLog, read_table, rewind


def write(log: CsvLog, **values: object) -> None:
    """Append a row."""
    log.write(values, {name: () for name in values})


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows as any reader sees them."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_names_become_columns_at_the_end(tmp_path: Path) -> None:
    """Earlier rows stay, empty in the new columns; within a row the order is that of the names."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, b=1, a=2.5)
    write(log, a=3.5, c="one, two")
    log.close()
    assert read_table(log.path) == [["a", "b", "c"], ["2.5", "1", ""], ["3.5", "", "one, two"]]


def test_what_is_excluded_is_no_column(tmp_path: Path) -> None:
    """As SB3's own writer has it."""
    log = CsvLog(tmp_path / "progress.csv")
    log.write({"a": 1, "picture": 2}, {"a": ("tensorboard",), "picture": ("csv", "stdout")})
    log.close()
    assert read_table(log.path) == [["a"], ["1"]]


def test_numbers_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    """A float is written so that it reads as itself."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, a=0.1 + 0.2, b=float("nan"), c=-1e-300)
    log.close()
    (row,) = rows(log.path)
    assert float(row["a"]) == 0.1 + 0.2 and row["b"] == "nan" and float(row["c"]) == -1e-300


def test_a_log_goes_on_where_it_was_opened(tmp_path: Path) -> None:
    """Opening one that exists loses nothing, not even a last line that a crash has cut short."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, a=1)
    log.close()
    with log.path.open("a") as file:
        file.write("1")  # and a crash
    again = CsvLog(log.path)
    write(again, a=2)
    again.close()
    assert rows(log.path) == [{"a": "1"}, {"a": "2"}]


def test_rewound_it_is_as_it_was(tmp_path: Path) -> None:
    """Rows and columns that came later are gone, also one that is half written."""
    log = CsvLog(tmp_path / "progress.csv")
    empty = log.position()
    write(log, a=1)
    position, before = log.position(), log.path.read_bytes()
    write(log, a=2, b=3)
    log.close()
    with log.path.open("a") as file:
        file.write("4,")
    rewind(log.path, position)
    assert log.path.read_bytes() == before
    rewind(log.path, empty)
    assert log.path.read_bytes() == b""


def test_a_log_that_lost_rows_is_refused(tmp_path: Path) -> None:
    """A gap is not papered over."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, a=1)
    position = log.position()
    log.close()
    log.path.write_text("a\n")
    with pytest.raises(
        ValueError, match=r"has 0 rows and 1 columns, fewer than the checkpoint's 1 and 1; was it"
    ):
        rewind(log.path, position)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_was_deleted_is_written_again(
    replaced: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all of its rows, whether another file lies in its place or not; said once."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, a=1)
    log.path.unlink()
    if replaced:
        log.path.write_text("x\n")
    write(log, a=2)
    write(log, a=3, b=4)
    log.path.unlink()
    log.position()
    assert read_table(log.path) == [["a", "b"], ["1", ""], ["2", ""], ["3", "4"]]
    assert capsys.readouterr().err.count("was deleted or replaced by another program") == 2


def test_a_deleted_folder_ends_the_run(tmp_path: Path) -> None:
    """By an error that names the file."""
    log = CsvLog(tmp_path / "progress.csv")
    log.path.unlink()
    tmp_path.rmdir()
    with pytest.raises(OSError, match=r"progress\.csv"):
        write(log, a=1)


def test_a_log_has_a_bounded_number_of_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lines count too."""
    path = tmp_path / "progress.csv"
    monkeypatch.setattr("experiments.run.csv_log.MOST_CELLS", 1000)
    for text in ("\n" * 1001, "1," * 1000 + "\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"progress.csv is no CSV file of a run: more than"):
            read_table(path)


def test_a_deleted_log_is_written_again_before_it_gets_a_column(tmp_path: Path) -> None:
    """A new column is read back from the file."""
    log = CsvLog(tmp_path / "progress.csv")
    write(log, a=1)
    log.path.unlink()
    write(log, b=2)
    assert read_table(log.path) == [["a", "b"], ["1", ""], ["", "2"]]
