"""Who may import whom, read from the source: packages, sub-packages and modules."""

import ast
import functools
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("npg", "agents", "envs", "experiments", "configs")
CHECKOUT = "the checkout"  # the folder that contains the packages

# From low to high: a unit, i.e. a sub-package or a module beside it, imports no unit of a higher layer. Units
# that are not listed are in the layer of "*"; a package's own name is its __init__.
LAYERS: dict[str, list[set[str]]] = {
    "npg": [{"*"}, {"npg.fisher"}, {"npg.geometry"}, {"npg"}],
    "agents": [{"agents.ranks"}, {"agents.policy"}, {"agents.rollout"}, {"agents.critic"}, {"*"}, {"agents"}],
    "envs": [
        {"*", "envs.tasks"},
        {"envs.state", "envs.tensor", "envs.vector"},
        {"envs.workers"},
        {"envs.factory"},
        {"envs"},
    ],
    "experiments": [{"*"}, {"experiments"}],
}
# What is still to be repaired; cycles may shrink, and nothing may be added.
KNOWN_UPWARD: set[tuple[str, str]] = set()
KNOWN_CYCLES: list[set[str]] = []


def sources(package: str) -> list[Path]:
    """Return a package's modules."""
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a file's dotted name in the checkout; of a package that of the folder."""
    if path == ROOT or not path.is_relative_to(ROOT):
        return CHECKOUT
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def path_of(node: ast.AST, path: Path) -> Path | None:
    """Return the path that an expression computes from ``Path(__file__)``; None if it does not."""
    match node:
        case ast.Call(func=ast.Name("Path"), args=[ast.Name("__file__")]):
            return path
        case ast.Call(func=ast.Attribute(inner, "resolve" | "absolute")):
            return path_of(inner, path)
        case ast.Attribute(inner, "parent"):
            return base.parent if (base := path_of(inner, path)) else None
        case ast.Subscript(ast.Attribute(inner, "parents"), ast.Constant(int(level))):
            return base.parents[level] if (base := path_of(inner, path)) else None
        case ast.BinOp(inner, ast.Div(), ast.Constant(str(name))):
            return base / name if (base := path_of(inner, path)) else None
    return None


@functools.cache
def imports(path: Path, text: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return (absolute dotted name, dotted name of the enclosing scope) of every import.

    The name of `from a import b` is a.b. A path that is computed from ``__file__`` and leaves the module's
    folder is an import of what it reaches.
    """
    package = path.relative_to(ROOT).parent.parts

    def walk(node: ast.AST, scope: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if (reached := path_of(node, path)) is not None:
            if not reached.is_relative_to(path.parent):
                yield name_of(reached), ".".join(scope)
            return
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                scope = (*scope, name)
            case ast.If(test) if ast.unparse(test).endswith("TYPE_CHECKING"):
                scope = (*scope, "TYPE_CHECKING")
            case ast.Import(aliases):
                yield from ((alias.name, ".".join(scope)) for alias in aliases)
            case ast.ImportFrom(module, aliases, level):
                base = [*package[: len(package) - level + 1]] if level else []
                base += [module] if module else []
                yield from ((".".join([*base, alias.name]), ".".join(scope)) for alias in aliases)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, scope)

    return tuple(walk(ast.parse(path.read_text() if text is None else text), ()))


def imported(package: str) -> set[str]:
    """Return every top-level name that a package imports, wherever it does so."""
    return {name.partition(".")[0] for path in sources(package) for name, _ in imports(path)}


def module_graph() -> dict[str, set[str]]:
    """Return the modules that each of ours imports, inside functions too but not for type checking alone."""
    paths = [ROOT / "train.py", *(path for package in PACKAGES for path in sources(package))]
    graph: dict[str, set[str]] = {name_of(path): set() for path in paths}
    for path in paths:
        for target, scope in imports(path):
            while target and target not in graph:
                target = target.rpartition(".")[0]
            if target and "TYPE_CHECKING" not in scope:
                graph[name_of(path)].add(target)
    return graph


def unit_of(module: str) -> str:
    """Return the sub-package of a module, or the module itself if it is beside them."""
    return ".".join(module.split(".")[:2])


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components with several nodes (Tarjan 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            component = {node, *takewhile(lambda other: other != node, iter(stack.pop, None))}
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def assert_acyclic(graph: dict[str, set[str]]) -> None:
    """Fail with a list of the cycles that are not known."""
    new = [sorted(cycle) for cycle in cycles(graph) if not any(cycle <= known for known in KNOWN_CYCLES)]
    assert not new, "\n".join(f"import cycle: {' <-> '.join(cycle)}" for cycle in new)


def test_the_packages_are_there() -> None:
    """The tests below would pass on empty folders."""
    for package in ("npg", "agents", "envs", "experiments"):
        assert len(sources(package)) >= 3
    assert "torch" in imported("npg")
    assert {"npg", "stable_baselines3"} <= imported("agents")
    assert "envs.state.environment_state" in module_graph()["envs.workers.worker_process"]


def test_imports_are_found() -> None:
    """Relative ones, those of functions, and paths out of the folder; a cycle is found through them."""
    text = (
        "from . import a\nfrom ..b import c\nimport d.e\nHERE = Path(__file__).parent / 'page.html'\n"
        "def f():\n    import g\nA = Path(__file__).parents[2] / 'configs' / 'x.yaml'\n"
        "B = Path(__file__).resolve().parent.parent / 'run' / 'log.py'\nC = Path(__file__).parents[2]\n"
    )
    found = list(imports(ROOT / "experiments" / "report" / "module.py", text))
    assert [name for name, _ in found] == [
        *("experiments.report.a", "experiments.b.c", "d.e", "g"),
        *("configs.x", "experiments.run.log", CHECKOUT),
    ]
    assert dict(found)["g"] == "f"
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"g", "a"}, "g": {"f"}}
    assert sorted(map(sorted, cycles(graph))) == [["a", "b", "c"], ["f", "g"]]


def test_npg_needs_torch_alone() -> None:
    """Only torch, the standard library and itself; numpy and scipy only inside `to_scipy`."""
    allowed = {"torch", "npg", *sys.stdlib_module_names}
    for path in sources("npg"):
        for target, scope in imports(path):
            name = target.partition(".")[0]
            if name in {"numpy", "scipy"}:
                assert scope in {"LinearOperator.to_scipy", "TYPE_CHECKING"}, f"{path}: {name} in {scope!r}"
            else:
                assert name in allowed, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("npg", {"agents", "envs", "experiments", "configs", "train"}),
        ("agents", {"envs", "experiments", "configs", "train"}),
        ("envs", {"npg", "agents", "experiments", "configs", "train"}),
        ("experiments", {"train"}),
        ("configs", {"agents", "envs", "experiments", "train"}),
    ],
)
def test_nothing_imports_upwards(package: str, forbidden: set[str]) -> None:
    """Allowed is npg <- agents <- experiments <- train.py, and envs <- experiments."""
    found = {
        (name_of(path), name)
        for path in sources(package)
        for name in {target.partition(".")[0] for target, _ in imports(path)}
    }
    assert not {(module, name) for module, name in found if name in {*forbidden, CHECKOUT}} - KNOWN_UPWARD


@pytest.mark.parametrize("package", LAYERS)
def test_sub_packages_import_downwards(package: str) -> None:
    """As in `LAYERS`."""

    def layer(unit: str) -> int:
        name = unit if any(unit in units for units in LAYERS[package]) else "*"
        return next(i for i, units in enumerate(LAYERS[package]) if name in units)

    upward = {
        (module, other)
        for module, others in module_graph().items()
        for other in others
        if module.partition(".")[0] == other.partition(".")[0] == package
        if layer(unit_of(other)) > layer(unit_of(module))
    }
    assert not upward - KNOWN_UPWARD


def test_no_module_cycles() -> None:
    """No module imports itself through others."""
    assert_acyclic(module_graph())


def test_no_sub_package_cycles() -> None:
    """Nor does a sub-package."""
    units: dict[str, set[str]] = {}
    for module, others in module_graph().items():
        units.setdefault(unit_of(module), set()).update(map(unit_of, others))
    assert_acyclic(units)


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
