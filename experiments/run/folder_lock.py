"""Lock a folder, so that only one command at a time writes into it."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.terminal import one_line, show

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Errors of file systems without locks; EBADF is that of file systems that lock only files open for writing.
UNSUPPORTED = {
    getattr(errno, name, 0) for name in ("EBADF", "ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL")
}
_warned: set[Path] = set()


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or this process ends, even by a crash.

    Network file systems lock only files that are open for writing, which a folder cannot be. There, the file
    `.<name>.lock` next to the folder is locked; it is not deleted afterwards.

    Returns:
        The descriptor; None, after a warning, if the file system has no locks.

    Raises:
        BlockingIOError: another process has locked the folder.
        OSError: the folder cannot be opened.
    """
    problem: object = "this platform has no fcntl"
    if fcntl is not None:
        whole = folder.resolve()
        beside = whole.with_name(f".{whole.name}.lock") if whole.name else whole / ".lock"
        writable = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        for path, flags in ((whole, os.O_RDONLY), (beside, writable)):
            try:
                return lock(path, flags)
            except BlockingIOError:
                raise
            except OSError as error:
                if path == whole and error.errno not in UNSUPPORTED:
                    raise
                problem = error.strerror or error
    if folder not in _warned:
        _warned.add(folder)
        show(
            f"warning: {one_line(folder)} cannot be locked ({problem}); let no other command write into it",
            error=True,
        )
    return None


def lock(path: Path, flags: int) -> int:
    """Open a path with these flags, lock it without waiting, and return the descriptor."""
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor
