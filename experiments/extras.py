"""Packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(requirement: str) -> Iterator[None]:
    """Name what to install if a package that the block imports is missing.

    Args:
        requirement: as pip takes it, e.g. ``-e ".[report]"``.

    Raises:
        ImportError: one is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{error}; install what is missing with: pip install -c constraints.txt {requirement}"
        ) from error
