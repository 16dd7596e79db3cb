"""A module as a user has it: in the current folder, which is on the import path."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from registries import restored_registries


@contextmanager
def imported_module(folder: Path, name: str, text: str) -> Iterator[Path]:
    """Write a module into a folder, work there and import it; afterwards, it is as if there were none."""
    (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch, restored_registries():
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        importlib.import_module(name)
        yield folder
    sys.modules.pop(name, None)
