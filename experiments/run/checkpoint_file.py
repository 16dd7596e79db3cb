"""Write and read a file of tensors and plain data, without running any code in it."""

import hashlib
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.untrusted_file import reading
from experiments.run.atomic_file import remove_leftovers, replacing
from experiments.run.plain_data import from_bytes, to_bytes

MAGIC = b"NPG-CKPT"
VERSION = 1
HEADER = struct.Struct("<8sIQ32s")  # magic, version, size of the payload in bytes, SHA-256 of the payload


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; earlier checkpoints are unchanged."""


class CorruptCheckpointError(ValueError):
    """A file is incomplete, changed, or not a checkpoint.

    Attributes:
        path: path of the file.
        reason: what is wrong with the file.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} is no valid checkpoint: {reason}")
        self.path = path
        self.reason = reason


def write(path: Path, content: Any) -> None:
    """Write atomically: after a crash, `path` holds either the previous checkpoint or the new one.

    Equal content gives equal bytes. Only one process at a time may write into a folder, since temporary files
    of crashed processes are removed.

    Args:
        path: path of the file; its folder is created if missing.
        content: tensors, arrays and plain data; see `experiments.run.plain_data.to_bytes`.

    Raises:
        NonFiniteError: a number is NaN or infinite; the message says where in the content.
        TypeError: a value has another type; the message says where in the content.
        CheckpointWriteError: e.g. the disk is full; the previous file is unchanged.
    """
    payload = to_bytes(content)
    header = HEADER.pack(MAGIC, VERSION, len(payload), hashlib.sha256(payload).digest())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with replacing(path) as file:
            file.writelines((header, payload))
    except OSError as error:
        free = "an unknown number"
        with suppress(OSError):
            free = str(shutil.disk_usage(path.parent).free)
        raise CheckpointWriteError(
            f"cannot write {path}: {error.strerror or error}; it needs {len(header) + len(payload)} bytes, "
            f"and {free} are free in {path.parent}; earlier checkpoints are unchanged"
        ) from error


def read(path: Path) -> Any:
    """Load a checkpoint; raise rather than return partial data.

    Nothing in the file is run: it is decoded by safetensors and as JSON.

    Raises:
        CorruptCheckpointError: the file is missing, incomplete, changed, or not a checkpoint.
    """
    payload = read_payload(path)
    try:
        return from_bytes(payload)
    except ValueError as error:
        raise CorruptCheckpointError(path, f"its checksum fits its bytes, but {error}") from error


def read_payload(path: Path) -> bytes:
    """Return the bytes after the header, after checking their size and checksum.

    Raises:
        CorruptCheckpointError: the check fails, or the file cannot be read.
    """
    try:
        if not path.is_file():
            raise CorruptCheckpointError(path, "there is no such file")
        with reading(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(HEADER.size)
            if not header:
                raise CorruptCheckpointError(path, "it is empty")
            if not (header.startswith(MAGIC) or MAGIC.startswith(header)):
                raise CorruptCheckpointError(path, f"it begins with {header[: len(MAGIC)]!r}, not {MAGIC!r}")
            if len(header) < HEADER.size:
                raise CorruptCheckpointError(path, f"it ends after {size} bytes, within the header")
            _, version, length, digest = HEADER.unpack(header)
            if version != VERSION:
                raise CorruptCheckpointError(path, f"it has format {version}; this version reads {VERSION}")
            # Checked before memory for the payload is allocated.
            if size != HEADER.size + length:
                raise CorruptCheckpointError(
                    path, f"it has {size} bytes; {HEADER.size + length} were written"
                )
            payload = file.read(length)
    except OSError as error:
        raise CorruptCheckpointError(path, f"it cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(payload).digest() != digest:
        raise CorruptCheckpointError(path, "its checksum differs: bytes were changed after it was written")
    return payload
