"""Every script in docs/gallery runs at its small size, keeps its assertions and writes one figure.

Scripts that need a package of the extra `gallery` are slow tests, which `.ci/full` runs.
"""

import ast
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "docs/gallery").glob("*.py"))
OPTIONAL = {"ngboost", "picard", "sklearn", "statsmodels"}
MAX_LINES = 120


def optional_packages(script: Path) -> set[str]:
    """Return the packages that a script imports and the extra `test` does not install."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} & OPTIONAL


def entry(script: Path):
    """Return a parameter for a script, marked slow if it needs an optional package."""
    missing = sorted(name for name in optional_packages(script) if find_spec(name) is None)
    marks = [pytest.mark.slow] if optional_packages(script) else []
    marks += [pytest.mark.skip(reason=f"not installed: {', '.join(missing)}")] if missing else []
    return pytest.param(script, id=script.stem, marks=marks)


@pytest.fixture
def pyplot(monkeypatch, tmp_path):
    """Matplotlib without a window; the scripts run at small size and write to `figure.png`."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.setenv("GALLERY_SMALL", "1")
    monkeypatch.setenv("GALLERY_OUT", str(tmp_path / "figure.png"))
    import matplotlib.pyplot as plt

    plt.close("all")
    with matplotlib.rc_context():
        yield plt
    plt.close("all")


@pytest.mark.parametrize("script", [entry(script) for script in SCRIPTS])
def test_a_script_keeps_its_assertions_and_writes_one_figure(script, pyplot, tmp_path):
    """It draws exactly one figure, writes it to GALLERY_OUT, and does not change torch's defaults."""
    dtype = torch.get_default_dtype()
    runpy.run_path(str(script), run_name="__main__")
    assert len(pyplot.get_fignums()) == 1
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_default_dtype() is dtype


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_short_and_has_the_parts_of_an_entry(script):
    """It has cells, assertions, a title, its source and the operators that it uses."""
    text = script.read_text(encoding="utf-8")
    tree = ast.parse(text)
    title, underline, *_ = (ast.get_docstring(tree) or "\n").splitlines()
    assert title and underline == "=" * len(title)
    assert "**Source**" in text and "**Uses**" in text
    assert len(text.splitlines()) <= MAX_LINES
    assert text.count("\n# %%\n") >= 3
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    cells = text.split("\n# %%\n")
    figures = ["plt.subplots(" in cell or "plt.figure(" in cell for cell in cells]
    assert figures[-1] and sum(figures) == 1, (
        "sphinx-gallery and notebooks show a figure after its first cell"
    )


def test_a_missing_package_names_the_extra(pyplot, monkeypatch):
    """Without its optional package, a script names what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install -c constraints\.txt -e "\.\[gallery\]"'):
        runpy.run_path(str(SCRIPTS[-1]))


@pytest.mark.slow
def test_a_script_runs_in_any_directory(tmp_path):
    """Without GALLERY_OUT, it writes the figure into the current directory, under its own name."""
    script = ROOT / "docs/gallery/two_pairs_of_gaussians.py"
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path, env=environment)
    assert [path.name for path in tmp_path.iterdir()] == ["two_pairs_of_gaussians.png"]


@pytest.mark.slow
def test_collecting_doctests_executes_no_script(tmp_path):
    """With --doctest-modules, pytest imports every module in docs/ that it does not ignore."""
    environment = {**os.environ, "MPLBACKEND": "agg", "GALLERY_OUT": str(tmp_path / "figure.png")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n", "0", "docs"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    assert not list(tmp_path.iterdir())
