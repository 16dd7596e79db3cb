"""Import packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager

from envs.extras import install_command


@contextmanager
def needs(extra: str = "", package: str = "") -> Iterator[None]:
    """If the block cannot import a package, say in the error how to install it.

    Args:
        extra: the extra that has it, e.g. "report".
        package: the package, if it is in no extra.

    Raises:
        ImportError: a package is missing.
    """
    try:
        yield
    except ImportError as error:
        install = install_command(extra, package)
        raise ImportError(f"{error}; install what is missing with: {install}") from error
