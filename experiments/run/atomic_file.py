"""Write files atomically, without following links."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".npg-partial-"  # prefix of temporary files, which a crash may leave behind


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write atomically: after a crash, `path` holds either the previous file or the new one.

    Yields a temporary file with a random name, the file's `name`, which has the suffix of `path`. A link at
    `path` is replaced, not followed.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}-{path.name}")
    try:
        with temporary.open("x+b") as file:  # exclusively: an existing file or link is an error
            yield file
            file.flush()
            os.fsync(file.fileno())  # otherwise, after a power cut, `path` could exist without its content
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if os.name == "posix":  # a rename is durable only when the folder is on disk, too
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of crashed `replacing` calls; call it only while the folder is locked."""
    for left in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):  # e.g. it is a folder
            left.unlink()
