"""The pages of docs/ are complete, as far as this can be checked without building the site."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import agents
import agents.ranks
import envs
import npg
import npg.distributions
from agents import ALGORITHMS
from agents.hyperparameters import PLUMBING, defaults_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DIRECTIVE = re.compile(
    r"^\.\. (?:auto\w+|py:data):: (?P<name>[\w.]+)\n(?P<options>(?: +\S.*\n)*)", re.MULTILINE
)
LINK = re.compile(r"\]\((?P<target>[^):]+)\)")
TOCTREE = re.compile(r"^```\{toctree\}\n(?::.*\n)*(?P<pages>[^`]*)```", re.MULTILINE)
FILE = re.compile(
    r"^(?P<verb>Save this as|Append to) `(?P<name>\w+\.py)`:\n\n```python\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^    ((?:npg|python) .*)$", re.MULTILINE)


def entries() -> dict[str, bool]:
    """Return {name: whether its members are shown} of all entries of the API reference."""
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))
    found = [(entry["name"], ":members:" in entry["options"]) for entry in DIRECTIVE.finditer(pages)]
    assert len(dict(found)) == len(found), "a name has two entries"
    return dict(found)


def definitions(path: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    """Return the classes and functions of a module whose names do not begin with an underscore.

    The module is not imported, since it may need a package that is not installed.
    """
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return [
        node
        for node in nodes
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize(
    "package", [npg, npg.distributions, agents, agents.ranks, envs], ids=lambda p: p.__name__
)
def test_every_exported_name_has_an_entry(package: ModuleType) -> None:
    """In the API reference, as package.name; those of npg.distributions may be there as npg.name."""
    known = entries()
    parents = [package.__name__, package.__name__.partition(".")[0]]
    missing = [n for n in package.__all__ if not any(f"{parent}.{n}" in known for parent in parents)]
    assert not missing, f"add entries of {package.__name__} to docs/api: {', '.join(missing)}"


def test_every_name_of_experiments_has_an_entry() -> None:
    """By its module, whose members are shown: the package itself exports no names."""
    known = entries()
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if definitions(path):
            assert known.get(module), f"add an entry for {module} with :members: to docs/api"


def test_every_public_name_is_documented() -> None:
    """Autodoc leaves out what has no docstring."""
    exported = [getattr(package, name) for package in (npg, agents, envs) for name in package.__all__]
    things = [thing for thing in exported if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert not [thing for thing in things if not thing.__doc__]
    for path in (ROOT / "experiments").rglob("*.py"):
        assert not [f"{path}:{node.lineno}" for node in definitions(path) if not ast.get_docstring(node)]


def test_no_entry_is_left_of_what_is_gone() -> None:
    """Every entry names a module's file, or something in a package."""
    for name in entries():
        package, _, own = name.rpartition(".")
        file = ROOT / f"{name.replace('.', '/')}.py"
        assert file.is_file() or hasattr(import_module(package), own), f"docs/api: there is no {name}"


@pytest.mark.parametrize("name", ["vpg", "npg", "trpo", "acktr"])
def test_every_setting_is_explained_with_its_default(name: str) -> None:
    """In docs/settings.md, in a row that names the agent."""
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (.*?) \|", text, re.MULTILINE)
    documented = {
        setting: default
        for setting, owners, default in rows
        if owners == "all" or name.upper() in owners.split(", ")
    }
    defaults = {key: value for key, value in defaults_of(ALGORITHMS[name]).items() if key not in PLUMBING}
    assert documented == {key: repr(value).replace("'", '"') for key, value in defaults.items()}


def links_of(page: Path) -> set[Path]:
    """Return the pages that a page links to or lists in its table of contents."""
    text = page.read_text(encoding="utf-8")
    targets = [link["target"].split("#")[0] for link in LINK.finditer(text)]
    targets += [f"{name}.md" for toctree in TOCTREE.finditer(text) for name in toctree["pages"].split()]
    return {(page.parent / target).resolve() for target in targets if target.endswith(".md")}


def within_two_clicks() -> set[Path]:
    """Return the pages that are at most two clicks away from the start page."""
    start = DOCS / "index.md"
    near = links_of(start)
    return {start} | near | {far for page in near if page.exists() for far in links_of(page)}


def test_every_page_is_within_two_clicks() -> None:
    """From the start page, by links and tables of contents."""
    assert (
        set(DOCS.rglob("*.md")) - {p for p in DOCS.rglob("*.md") if "gallery_pages" in p.parts}
        <= within_two_clicks()
    )


def test_included_pages_have_no_relative_links() -> None:
    """A link relative to the root leads nowhere from the page of docs/ that includes the whole file."""
    included = [
        (path.parent / name).resolve()
        for path in DOCS.rglob("*.md")
        for name in re.findall(r"^```\{include\} (\S+)\n```", path.read_text(), re.MULTILINE)
    ]
    assert ROOT / "CHANGELOG.md" in included
    assert not [(path.name, link) for path in included for link in LINK.findall(path.read_text())]


@pytest.mark.parametrize(
    "question", ["own environment", "own policy", "GPU", "several machines", "target_kl"]
)
def test_the_start_page_answers(question: str) -> None:
    """By a line with a link."""
    lines = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    assert any(question in line and LINK.search(line) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["train", "compare", "environment", "policy"])
def test_a_page_of_the_tutorial_works_as_written(page: str, tmp_path: Path) -> None:
    """Its files are written and its commands run, in order, in one folder."""
    text = (DOCS / "tutorial" / f"{page}.md").read_text(encoding="utf-8")
    for step in sorted([*FILE.finditer(text), *COMMAND.finditer(text)], key=lambda step: step.start()):
        if "code" in step.groupdict():
            with (tmp_path / step["name"]).open("a" if step["verb"] == "Append to" else "w") as file:
                file.write(step["code"])
            continue
        program, *words = shlex.split(step[1], comments=True)
        command = [sys.executable, *(["-m", "experiments.command"] if program == "npg" else []), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{step[1]}\n{done.stdout}{done.stderr}"
