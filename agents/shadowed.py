"""Name a package of a user's that shadows one of ours; experiments runs this file by its path."""

from importlib.util import find_spec
from pathlib import Path


def check_found(*names: str) -> None:
    """Check that packages of these names are ours.

    Raises:
        ImportError: one is not; says where it is.
    """
    for name in names:
        if (spec := find_spec(name)) is None:
            continue
        found = Path(next(iter(spec.submodule_search_locations or [spec.origin or ""]))).resolve()
        if found.parent / "agents" / "shadowed.py" != Path(__file__).resolve():
            raise ImportError(
                f"{found} shadows the package {name!r} of npg-toolkit: rename it, or start Python elsewhere"
            )


check_found("npg")
