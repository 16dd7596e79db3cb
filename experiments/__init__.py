"""Everything between a command and an agent: runs, grids, searches, evaluation, reports."""

from pathlib import Path
from runpy import run_path

# Loaded by its path, since another package may shadow `agents`.
run_path(str(Path(__path__[0]).parent / "agents" / "shadowed.py"))["check_found"]("agents", "envs")
