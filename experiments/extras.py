"""Import packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(requirement: str) -> Iterator[None]:
    """If the block cannot import a package, say in the error how to install it.

    Args:
        requirement: what to install, as an argument of pip, e.g. ``-e ".[report]"``.

    Raises:
        ImportError: a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{error}; install what is missing with: pip install -c constraints.txt {requirement}"
        ) from error
