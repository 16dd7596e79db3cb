"""Who may import whom, read off the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("npg", "agents", "envs", "experiments", "configs")


def sources(package: str) -> list[Path]:
    """Return a package's modules."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (imported top-level name, dotted name of the enclosing scope) of every import."""

    def walk(node: ast.AST, scope: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (*scope, child.name)
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                inner = (*scope, "TYPE_CHECKING")
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name.partition(".")[0], ".".join(scope)
            elif isinstance(child, ast.ImportFrom):
                package = path.relative_to(ROOT).parts[0] if child.level else child.module
                yield (package or "").partition(".")[0], ".".join(scope)
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), ())


def imported(package: str) -> set[str]:
    """Return every top-level name that a package imports, wherever it does so."""
    return {name for path in sources(package) for name, _ in imports(path)}


def test_the_packages_are_there() -> None:
    """The tests below would pass on empty folders."""
    for package in ("npg", "agents", "envs"):
        assert len(sources(package)) >= 3
    assert "torch" in imported("npg")
    assert {"npg", "stable_baselines3"} <= imported("agents")


def test_npg_needs_torch_alone() -> None:
    """Only torch, the standard library and itself; numpy and scipy only inside `to_scipy`."""
    allowed = {"torch", "npg", *sys.stdlib_module_names}
    for path in sources("npg"):
        for name, scope in imports(path):
            if name in {"numpy", "scipy"}:
                assert scope in {"LinearOperator.to_scipy", "TYPE_CHECKING"}, f"{path}: {name} in {scope!r}"
            else:
                assert name in allowed, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("npg", {"agents", "envs", "experiments", "configs", "train"}),
        ("agents", {"envs", "experiments", "train"}),
        ("envs", {"npg", "agents", "experiments", "train"}),
        ("experiments", {"train"}),
        ("configs", {"agents", "envs", "experiments", "train"}),
    ],
)
def test_nothing_imports_upwards(package: str, forbidden: set[str]) -> None:
    """Allowed is npg <- agents <- experiments <- train.py, and envs <- experiments."""
    assert not imported(package) & forbidden


def test_there_is_no_utils() -> None:
    """A module is named by what it holds."""
    found = [
        p
        for package in PACKAGES
        for p in sources(package)
        if p.stem in {"utils", "util", "helpers", "common"}
    ]
    assert not found
    assert not (ROOT / "utils.py").exists()
