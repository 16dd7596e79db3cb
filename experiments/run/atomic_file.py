"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".npg-partial-"  # begins the names of half-written files, which a crash leaves


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the place of `path` once it is whole and on disk, and only then.

    That file has the suffix of `path`, and a killed process leaves nothing else.

    Args:
        path: of the file; what is there stays as it is where writing fails.

    Raises:
        OSError: it could not be done.
    """
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # or the new name could outlive a power cut, and the bytes not
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if os.name == "posix":  # a rename is durable once its folder is on disk too
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what crashes have left of `replacing` in a folder into which nobody else writes now."""
    for left in folder.glob(f"{PARTIAL}*"):
        left.unlink(missing_ok=True)
