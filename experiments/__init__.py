"""Everything between a command and an agent: runs, grids, searches, evaluation, reports."""

from importlib.util import find_spec
from pathlib import Path

for _name in ("npg", "agents", "envs"):
    if (_spec := find_spec(_name)) is not None:
        _found = Path(next(iter(_spec.submodule_search_locations or [_spec.origin or ""]))).resolve()
        if _found.parent != Path(__path__[0]).resolve().parent:
            raise ImportError(
                f"{_found} shadows the package {_name!r} of npg-toolkit: rename it, or start Python elsewhere"
            )
