"""What a distribution has: its version, its description, its files."""

import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_checkout

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_said_once() -> None:
    """By pyproject.toml, the newest heading of the changelog and the citation."""
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest is not None and PROJECT["version"] == newest[1] == cited["version"]
    assert PROJECT["authors"] == cited["authors"] and PROJECT["license"] == cited["license"]


def test_the_description_has_no_relative_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package index shows it without the files; everything else is as in README.md."""
    setuptools = pytest.importorskip("setuptools")
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    description = given["long_description"]
    targets = re.findall(r"\]\(([^)\s]+)\)", description)
    assert targets and all(target.startswith("https://") for target in targets)
    assert "![" not in description and "docs/benchmarks.md has all tables" in description
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    plain = [line for line in readme if "](" not in line and not line.startswith("# ")]
    assert set(plain) <= set(description.splitlines())


@pytest.mark.slow
def test_a_source_distribution_has_every_file_of_the_checkout(tmp_path: Path) -> None:
    """Among them tests, docs, benchmarks and the checks."""
    names = copy_checkout(tmp_path / "source")
    build = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "source", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names <= packed
    made = {name for name in packed - names if ".egg-info/" not in name}
    assert made == {"PKG-INFO", "setup.cfg"}
