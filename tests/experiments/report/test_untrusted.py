"""Reports on untrusted folders: nothing outside the output is written, and names stay text."""

import contextlib
import csv
import io
from pathlib import Path

import pytest
from run_folders import write_run

from experiments.options import Report
from experiments.report.command import main
from experiments.report.run_record import find_runs
from experiments.report.tables import as_cell

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
ESCAPE = "\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with links in the place of every output, after a report, and what was printed."""
    top = tmp_path_factory.mktemp("top")
    root, out, victim = top / "runs", top / "runs-report", top / "victim"
    victim.write_text("mine")
    for name in ("$(touch CANARY)", f"=cmd|' /C calc'!A0{ESCAPE}", "new\nline", "half\udce9"):
        write_run(root / name, seed=len(list(root.glob("*"))) if root.exists() else 0)
    unfinished = write_run(root / f"left{ESCAPE}out\nerror: forged", seed=9)
    (unfinished / "progress.csv").write_text(f"{ESCAPE},b\n1,2\n")
    out.mkdir()
    for name in ("report.html", "runs.csv", "curves.csv", "scores.png", "scores.svg"):
        (out / name).symlink_to(victim)
    printed = io.StringIO()
    with contextlib.chdir(top), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        assert main(Report((Path("runs"),))) == 0
    return top, printed.getvalue()


def test_links_in_the_place_of_outputs_are_replaced(reported: tuple[Path, str]) -> None:
    """The default output lies beside the input; what the links lead to stays, and nothing else appears."""
    top, _ = reported
    assert (top / "victim").read_text() == "mine"
    assert {path.name for path in top.iterdir()} == {"runs", "runs-report", "victim"}
    assert not any(path.is_symlink() for path in (top / "runs-report").iterdir())
    assert all(path.is_dir() for path in (top / "runs").iterdir())


def test_no_escape_sequence_is_printed(reported: tuple[Path, str]) -> None:
    """Neither of a folder's name nor of a column's; a newline in a name begins no line."""
    _, printed = reported
    assert r"left\x1b]0;owned\x07out\nerror: forged" in printed and "\nerror: forged" not in printed
    assert not any(character in printed.replace("\x1b[A", "") for character in "\x1b\x07")


def test_no_cell_is_a_formula(reported: tuple[Path, str]) -> None:
    """Every text of the tables begins with a harmless character; no control character is in them."""
    top, _ = reported
    for path in (top / "runs-report").glob("*.csv"):
        for row in csv.reader(path.open(newline="", encoding="utf-8")):
            for cell in row:
                assert cell.isprintable()
                with contextlib.suppress(ValueError):
                    float(cell)
                    continue
                assert not cell.startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"])
def test_a_text_that_begins_a_formula_is_quoted(start: str) -> None:
    """A relative path begins as its folder's name does; numbers stay numbers."""
    for value in (start, Path(start)):
        assert as_cell(value)[0] not in "=+-@\t\r\uff1d"
    assert as_cell(-1.5) == -1.5


def test_a_link_as_output_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given or by default: it may lead to the user's own folders."""
    write_run(tmp_path / "runs")
    (tmp_path / "home").mkdir()
    (tmp_path / "runs-report").symlink_to(tmp_path / "home")
    for report in (Report((tmp_path / "runs",)), Report((tmp_path,), out=tmp_path / "runs-report")):
        assert main(report) == 2
        assert "runs-report is a link; delete it, or choose" in capsys.readouterr().err
    assert list((tmp_path / "home").iterdir()) == []


def test_the_default_output_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`npg report .` writes beside it too."""
    write_run(tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    assert main(Report((Path("."),))) == 0
    assert (tmp_path / "runs-report" / "report.html").exists()


def test_deep_folders_end(tmp_path: Path) -> None:
    """A thousand levels are not followed."""
    write_run(tmp_path)
    deep = tmp_path
    for _ in range(30):
        deep = deep / "d"
    write_run(deep)
    records, _ = find_runs([tmp_path])
    assert len(records) == 1
