"""Tell users of version 0.1 where a module has moved to."""

import sys
from typing import NoReturn


def moved(importer: str, name: str) -> NoReturn:
    """End `python -m agents.NAME` with exit code 2, and an import with an error.

    Args:
        importer: `__name__` of the module.
        name: the module's name without its package.
    """
    text = f"agents.{name} is now experiments.{name}; the command is: npg {name}"
    if importer == "__main__":
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(text)
