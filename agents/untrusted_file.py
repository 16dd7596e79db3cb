"""Read files that may be untrusted: regular files of limited size, and no links."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST = 4 * 2**30  # largest file that is read, in bytes
MOST_TEXT = 64 * 2**20  # bytes
MOST_SPARSE = 256 * 2**20  # largest sparse file, in bytes: a hole takes no disk space, but memory when read
# Neither follow a link nor wait for the other end of a pipe; Windows has no such flags.
CAUTIOUS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class UnsafeFileError(OSError):
    """An untrusted file is a link, a pipe, a device, or too large."""


def reading(path: Path, most: int = MOST) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: path of the file.
        most: maximum size in bytes.

    Raises:
        UnsafeFileError: the file is a link, not a regular file, too large, or large and sparse.
        OSError: the file cannot be opened.
    """
    reject_link(path)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | CAUTIOUS))  # noqa: SIM115
    try:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UnsafeFileError(f"{path} is no regular file; delete it, or repeat the run")
        if about.st_size > most:
            raise UnsafeFileError(f"{path} has {about.st_size} bytes, more than {most}; repeat the run")
        if about.st_size > MOST_SPARSE and has_holes(file.fileno(), about.st_size):
            raise UnsafeFileError(f"{path} is sparse; if you trust it, copy it with cp --sparse=never")
    except BaseException:
        file.close()
        raise
    return file


def reject_link(path: Path) -> None:
    """Raise UnsafeFileError if a path is a link."""
    if path.is_symlink():
        raise UnsafeFileError(f"{path} is a link; put a copy of what it leads to in its place")


def has_holes(descriptor: int, size: int) -> bool:
    """Return whether a file of `size` bytes is sparse."""
    if not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    except OSError:  # the file system does not support it
        return False
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Return the text of a small UTF-8 file.

    Raises:
        OSError: see `reading`.
        ValueError: the content is not UTF-8.
    """
    with reading(path, most) as file:
        return file.read().decode()
