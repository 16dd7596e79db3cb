"""The report: files, numbers, refusals, and the page in a browser."""

import contextlib
import csv
import importlib
import io
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import write_run

from experiments.options import Report
from experiments.report.command import find_thresholds, main
from experiments.report.comparison import compare
from experiments.report.references import read_references
from experiments.report.run_record import find_runs
from experiments.report.tables import write_tables

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

GEOMETRY = {"npg/kl": [0.01, 0.02, 0.01], "npg/step_length": [0.1, 0.2, 0.1], "npg/cosine": [0.5, 0.6, 0.7]}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def write_grid(root: Path, tasks: tuple[str, ...] = ("CartPole-v1", "Acrobot-v1"), **options: Any) -> None:
    """Write three seeds of two algorithms on every task; only one of them solves linear systems."""
    for env in tasks:
        for k, algo in enumerate(("npg", "vpg")):
            residual = {"npg/cg_residual": [1e-6, 1e-5, 1e-6]} if algo == "npg" else {}
            for seed in range(3):
                returns = (0.0, 10.0 * seed, 100.0 - 20 * k - seed)
                own = {"returns": returns, "evaluation": (returns[-1] - 10, returns[-1] + 10)} | options
                write_run(root, algo, seed, env=env, metrics=GEOMETRY | residual, **own)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a report on runs whose settings and paths are hostile, and what was printed."""
    root = tmp_path_factory.mktemp("runs") / "<img src=x onerror=alert(3)>"
    write_grid(root, hyperparameters={"policy_kwargs": {"net_arch": HOSTILE}}, versions={"torch": HOSTILE})
    (write_run(root, "trpo") / "evaluation.json").unlink()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(Report((root,))) == 0
    return root.with_name(f"{root.name}-report"), printed.getvalue()


def test_one_command_writes_page_figures_and_numbers(made: tuple[Path, str]) -> None:
    """Everything is in one folder beside the runs, and does not count as a run the next time."""
    out, printed = made
    names = {path.name for path in out.iterdir()}
    figures = ["learning_curves", "learning_curves_wall_clock", "scores", "performance_profile"]
    figures += ["geometry_CartPole-v1", "geometry_Acrobot-v1"]
    assert names == {
        "report.html",
        *(f"{name}.{kind}" for name in figures for kind in ("png", "svg")),
        *(f"{name}.csv" for name in ("runs", "aggregates", "improvement", "curves")),
    }
    assert all(path.stat().st_size for path in out.iterdir())
    assert "NPG  3      99.0 [" in printed and str(out / "report.html") in printed
    assert "fewer than 5 seeds (npg 3, vpg 3)" in printed
    assert len(find_runs([out.parent])[0]) == 12 and len(find_runs([out.parent])[1]) == 1


def test_what_is_left_out_is_printed_and_in_the_page(made: tuple[Path, str]) -> None:
    """The report goes on without an unfinished run, and names it."""
    out, printed = made
    for text in (printed, (out / "report.html").read_text()):
        assert "trpo/seed-0" in text and "unfinished: there is no evaluation.json" in text


def test_numbers_are_those_of_the_runs_and_the_seed_repeats_them(tmp_path: Path) -> None:
    """The CSV files hold what a reader would compute by hand, and the same bytes a second time."""
    write_grid(tmp_path / "runs")
    records, left_out = find_runs([tmp_path / "runs"])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        comparison = compare(
            records,
            left_out,
            thresholds={"CartPole-v1": 90.0},
            references=read_references(),
            generator=np.random.default_rng(0),
        )
        write_tables(comparison, tmp_path / name)
    tables = {path.stem: list(csv.DictReader(path.open())) for path in (tmp_path / "a").iterdir()}
    for name in tables:
        assert (tmp_path / "a" / f"{name}.csv").read_bytes() == (tmp_path / "b" / f"{name}.csv").read_bytes()
    assert len(tables["runs"]) == 12
    row = only(tables["runs"], environment="CartPole-v1", algorithm="npg", seed="2")
    assert (row["training"], row["evaluation"], row["steps_to_threshold"]) == ("98.0", "98.0", "3000.0")
    assert float(row["area"]) == pytest.approx((0 + 20) / 4 + (20 + 98) / 4)
    owner = {"environment": "CartPole-v1", "algorithm": "vpg"}
    row = only(tables["aggregates"], **owner, score="training", statistic="mean")
    assert float(row["estimate"]) == pytest.approx(79) and float(row["low"]) < 79 < float(row["high"])
    pair = {"environment": "CartPole-v1", "first": "npg", "second": "vpg"}
    assert float(only(tables["improvement"], **pair, score="steps_to_threshold")["estimate"]) == 1
    points = [row for row in tables["curves"] if owner.items() <= row.items() and row["curve"] == "steps"]
    assert (float(points[-1]["x"]), float(points[-1]["estimate"])) == (3000, pytest.approx(79))


def test_costs_have_columns_and_a_curve(tmp_path: Path) -> None:
    """Of an algorithm that reports them; the highest seed is shown, too."""
    log = {"rollout/ep_cost_mean": [5.0, 3.0, 2.0]}
    for seed, cost in enumerate((1.0, 4.0, 2.5)):
        write_run(tmp_path / "runs", "cpo", seed, costs=[[cost - 1], [cost + 1]], metrics=log)
        write_run(tmp_path / "runs", "npg", seed)
    found = find_runs([tmp_path / "runs"])
    options: dict[str, Any] = {"thresholds": {}, "references": {}, "generator": np.random.default_rng(0)}
    comparison = compare(*found, **options)
    importlib.import_module("experiments.report.report_page").write_page(
        comparison, tmp_path / "page.html", seed=0
    )
    page = (tmp_path / "page.html").read_text()
    assert "cost in the evaluation" in page and "<h4>cost per episode</h4>" in page
    assert re.search(r"<td>2\.50? <span class=\"ci\">\[[^<]*</span></td><td>4\.00?</td></tr>", page)
    assert page.count("<td>\u2013</td><td>\u2013</td></tr>") == 1
    write_tables(comparison, tmp_path)
    runs = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [row["cost"] for row in runs if row["algorithm"] == "cpo"] == ["1.0", "4.0", "2.5"]
    assert [row["cost"] for row in runs if row["algorithm"] == "npg"] == [""] * 3
    aggregates = list(csv.DictReader((tmp_path / "aggregates.csv").open()))
    assert only(aggregates, score="cost", statistic="mean")["estimate"] == "2.5"


def test_two_costs_have_a_column_each(tmp_path: Path) -> None:
    """A run without costs among those with some leaves its algorithm without an average."""
    for seed in range(2):
        write_run(tmp_path / "runs", "cpo", seed, costs=[[1.0, 9.0], [3.0, 11.0]])
        write_run(tmp_path / "runs", "npg", seed, costs=None if seed else [[1.0, 1.0]])
    records, _ = find_runs([tmp_path / "runs"])
    options: dict[str, Any] = {"thresholds": {}, "references": {}, "generator": np.random.default_rng(0)}
    entries = {entry.algorithm: entry for entry in compare(records, [], **options).tasks[0].entries}
    assert entries["cpo"].costs == ["cost_0", "cost_1"] and entries["npg"].costs == []
    assert entries["cpo"].scores["cost_1"].tolist() == [10.0, 10.0]


def only(rows: list[dict[str, str]], **cells: str) -> dict[str, str]:
    """Return the one row with these cells."""
    (row,) = [row for row in rows if cells.items() <= row.items()]
    return row


def test_bad_input_is_refused_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing usable, and options that make no sense, end with exit code 2 and a sentence."""
    assert main(Report((tmp_path,))) == 2
    assert "expected folders of finished runs" in capsys.readouterr().err
    assert main(Report((tmp_path / "missing",))) == 2
    assert "there is no such folder" in capsys.readouterr().err
    write_grid(tmp_path)
    assert main(Report((tmp_path,), threshold=("90",))) == 2
    assert "give --threshold Acrobot-v1=90" in capsys.readouterr().err
    assert main(Report((tmp_path,), seed=-1)) == 2
    assert "expected --seed ≥ 0, got -1" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(Report((tmp_path,), out=tmp_path / "file")) == 2
    assert "file" in capsys.readouterr().err


def test_thresholds_are_given_or_gymnasiums(tmp_path: Path) -> None:
    """A lone number serves a lone task; a task without a threshold has none."""
    for env in ("CartPole-v1", "Pendulum-v1"):
        write_run(tmp_path, env=env)
    both, one = find_runs([tmp_path])[0], find_runs([tmp_path / "Pendulum-v1"])[0]
    assert find_thresholds((), both) == {"CartPole-v1": 475}
    assert find_thresholds(("Pendulum-v1=-200",), both) == {"CartPole-v1": 475, "Pendulum-v1": -200}
    assert find_thresholds(("-200",), one) == {"Pendulum-v1": -200}
    with pytest.raises(ValueError, match="names 'Hopper-v5', of which there is no run"):
        find_thresholds(("Hopper-v5=1",), both)
    for text in ("high", "Pendulum-v1=nan"):
        with pytest.raises(ValueError, match="expects a number, or task=number"):
            find_thresholds((text,), one)


@pytest.mark.parametrize("library", ["matplotlib", "plotly.graph_objects", "plotly.offline", "jinja2"])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the command that installs it."""
    write_run(tmp_path)
    for name in ("figures", "charts", "report_page", "findings", "templates"):
        monkeypatch.delitem(sys.modules, f"experiments.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    assert main(Report((tmp_path,))) == 2
    error = capsys.readouterr().err
    assert library.partition(".")[0] in error and 'pip install -c constraints.txt -e ".[report]"' in error


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(browser: Any, made: tuple[Path, str]) -> Iterator[Any]:
    """The report, offline: whatever the tests do, it neither asks for anything nor complains."""
    address = (made[0] / "report.html").as_uri()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    opened = context.new_page()
    requests, complaints = [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.goto(address)
    opened.wait_for_timeout(300)
    yield opened
    assert requests == [address]
    assert complaints == []
    context.close()


def test_a_logarithmic_axis_of_decades_has_powers_only(tmp_path: Path) -> None:
    """The labels of the ticks between them would overlap."""
    from experiments.report.appearance import styles
    from experiments.report.charts import Charts

    for seed in range(2):
        write_run(tmp_path, seed=seed, metrics={"npg/kl": [0.0, 1e-6, 1e-2], "npg/step_length": [0.0, 1, 2]})
    generator = np.random.default_rng(0)
    (task,) = compare(*find_runs([tmp_path]), thresholds={}, references={}, generator=generator).tasks
    charts = Charts(styles(["npg"]))
    assert '"dtick":1' in charts.geometry(task, "kl")
    assert '"dtick"' not in charts.geometry(task, "step_length")


def test_page_renders_every_plot(page: Any) -> None:
    """Two of scores, two of curves and four metrics a task, and the profile, each with its lines."""
    plots = page.locator(".plotly-graph-div")
    assert plots.count() == 2 * 8 + 1
    for plot in plots.all():
        assert plot.locator("svg .scatterlayer .trace").count() >= 2
        box, frame = plot.locator("svg").first.bounding_box(), plot.bounding_box()
        assert box["width"] <= frame["width"] + 1 and box["height"] <= frame["height"] + 1


@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_its_window(page: Any, width: int) -> None:
    """Nothing runs out of the window sideways, and no two sections or plots lie on each other."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # A long name of one word, e.g. of a user's environment, is broken.
    overflow = (
        "h => [...document.querySelectorAll(h)].every(e => getComputedStyle(e).overflowWrap == 'anywhere')"
    )
    assert all(page.evaluate(overflow, name) for name in ("h1", "h2", "h3", "p", "nav a"))
    boxes = [plot.bounding_box() for plot in page.locator(".chart").all()]
    page.set_viewport_size({"width": 1280, "height": 900})
    for k, a in enumerate(boxes):
        assert a["x"] >= 0 and a["x"] + a["width"] <= width
        for b in boxes[:k]:
            apart_x = a["x"] + a["width"] <= b["x"] + 0.5 or b["x"] + b["width"] <= a["x"] + 0.5
            apart_y = a["y"] + a["height"] <= b["y"] + 0.5 or b["y"] + b["height"] <= a["y"] + 0.5
            assert apart_x or apart_y


def test_page_is_legible_in_the_dark(page: Any) -> None:
    """Background, text, black lines and their bands change with the system's setting, and back."""
    plot = page.locator(".plotly-graph-div").nth(3)
    colours = "plot => [plot.layout.font.color, ...plot.data.map(t => t.line.color)]"
    bands = """() => [...document.querySelectorAll(".plotly-graph-div")].flatMap(
        plot => plot.data.filter(trace => trace.fill).map(trace => trace.fillcolor))"""
    light, filled = plot.evaluate(colours), page.evaluate(bands)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    dark, filled_in_the_dark = plot.evaluate(colours), page.evaluate(bands)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(300)
    assert background == "rgb(20, 23, 28)" and dark[0] == "#e3e6ea"
    assert "#000000" in light and "#000000" not in dark and "#cccccc" in dark
    assert filled and all(colour.startswith("rgba(") for colour in filled)
    assert all(colour.startswith("#") and colour.endswith("33") for colour in filled_in_the_dark)
    assert plot.evaluate(colours) == light and page.evaluate(bands) == filled


def test_no_caption_scrolls_away(page: Any) -> None:
    """On a phone, what explains a table is as wide as the window, not as the table."""
    page.set_viewport_size({"width": 400, "height": 900})
    widths = [note.bounding_box()["width"] for note in page.locator(".table-note").all()]
    inside = page.locator(".scroll .table-note, caption").count()
    page.set_viewport_size({"width": 1280, "height": 900})
    assert len(widths) >= 5 and max(widths) <= 400 and inside == 0


def test_legend_toggles_a_line_with_its_band(page: Any) -> None:
    """A click hides both, a second one brings both back, and the other algorithm stays."""
    plot = page.locator(".plotly-graph-div").nth(3)
    hidden = "plot => plot.data.filter(t => t.visible === 'legendonly').map(t => t.legendgroup)"
    drawn = plot.locator(".scatterlayer .trace")
    before = drawn.count()
    assert before == 4 and plot.evaluate(hidden) == []
    for expected in (["npg", "npg"], []):
        plot.locator(".legendtoggle").first.click()
        page.wait_for_timeout(600)  # plotly waits for a second click before it acts
        assert plot.evaluate(hidden) == expected
        assert drawn.count() == before - len(expected)


def test_page_shows_hostile_names_as_text(page: Any) -> None:
    """Settings, versions and paths of a stranger's folder are text, and nothing in them runs."""
    assert page.locator("img").count() == 0
    for text in ("</script><script>alert(1)</script>", "<img src=x onerror=alert(3)>"):
        assert page.get_by_text(text).count()


def test_page_says_first_who_is_ahead(page: Any) -> None:
    """The summary stands above all plots and has the probability with its interval."""
    summary = page.locator("#summary")
    assert "CartPole-v1. After 3k steps" in summary.inner_text()
    assert summary.locator("p").count() >= 4  # the training return is in a paragraph of its own
    assert "probability 1.00 [" in summary.inner_text()
    assert summary.bounding_box()["y"] < page.locator(".chart").first.bounding_box()["y"]
