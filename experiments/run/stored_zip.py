"""Read zip files of numbers, which may be untrusted: in memory of the file's size, and without running code.

SB3, PyTorch and NumPy store members without compression. A compressed one can be a thousand times larger than
its file, and is rejected. PyTorch lists its tensors in a pickle; `TensorUnpickler` knows the few
instructions that such a list needs and rejects all others. `torch.load(weights_only=True)` runs no code
either, but takes time without bound, e.g. to hash nested tuples.
"""

import io
import math
import pickle
import sys
import zipfile
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

MOST_LIST = 2**20  # bytes of the list of tensors; one tensor takes about 140
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}
NAMES = """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BINUNICODE SHORT_BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT BINPUT LONG_BINPUT BINGET LONG_BINGET
    GLOBAL REDUCE BINPERSID
"""
INSTRUCTIONS = [getattr(pickle, name) for name in NAMES.split()]
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]  # not the one in C, which has no table


class StoredZip:
    """A zip file whose members are not compressed.

    Args:
        file: that is read, at most once in total.
        size: of the file in bytes.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._zip = zipfile.ZipFile(file)
        self._left = size

    @property
    def names(self) -> list[str]:
        """Names of all members."""
        return self._zip.namelist()

    def read(self, name: str) -> bytes:
        """Return a member.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is compressed, or members overlap.
        """
        about = self._zip.getinfo(name)
        if about.compress_type != zipfile.ZIP_STORED or about.compress_size != about.file_size:
            raise ValueError(f"{name} is compressed, from {about.compress_size} to {about.file_size} bytes")
        self._left -= about.file_size
        if self._left < 0:
            raise ValueError("its members are larger than the file")
        return self._zip.read(about)

    def read_array(self, name: str) -> np.ndarray:
        """Return an array that `np.savez` has stored, of numbers or text.

        Raises:
            KeyError, ValueError: there is none of this name, or it is damaged.
        """
        return np.lib.format.read_array(io.BytesIO(self.read(f"{name}.npy")), allow_pickle=False)


def read_tensors(stored: bytes) -> Any:
    """Return what `torch.save` has written if it is a dict of tensors, or of plain values.

    Raises:
        Exception: the bytes hold anything else, or are damaged.
    """
    archive = StoredZip(io.BytesIO(stored), len(stored))
    (listing,) = (name for name in archive.names if name.endswith("/data.pkl"))
    folder = listing.removesuffix("data.pkl")
    if (order := f"{folder}byteorder") in archive.names and archive.read(order).decode() != sys.byteorder:
        raise ValueError("its numbers have the byte order of another computer")
    instructions = archive.read(listing)
    if len(instructions) > MOST_LIST:
        raise ValueError(f"its list of tensors has {len(instructions)} bytes, more than {MOST_LIST}")
    return TensorUnpickler(instructions, archive, f"{folder}data/").load()


class TensorUnpickler(PythonUnpickler):
    """Unpickle a dict of tensors, as far as PyTorch writes one.

    Args:
        instructions: the pickle.
        archive: with the numbers.
        folder: of the numbers in the archive.
    """

    def __init__(self, instructions: bytes, archive: StoredZip, folder: str):
        super().__init__(io.BytesIO(instructions))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a known name stands for."""
        return STORAGES[name] if module == "torch" else FUNCTIONS[f"{module}.{name}"]

    def persistent_load(self, identity: Any) -> Tensor:
        """Return the numbers that tensors are views of."""
        _, dtype, key, *_ = identity
        if not (isinstance(dtype, torch.dtype) and isinstance(key, str)):
            raise ValueError("a storage has no type or name")
        if key not in self._storages:
            content = bytearray(self._archive.read(self._folder + key))
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else empty
        if self._storages[key].dtype != dtype:
            raise ValueError("a storage has two types")
        return self._storages[key]

    def set_items(self, items: list[Any]) -> None:
        """Add items to a dict; to hash keys of other types could take any time."""
        mapping, keys = self.stack[-1], items[::2]
        if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        mapping.update(zip(keys, items[1::2], strict=True))

    def reject(self) -> None:
        """Raise ValueError at an unknown instruction."""
        raise ValueError("the list of tensors does more than to map names to tensors")

    dispatch: ClassVar[dict[int, Any]] = dict.fromkeys(range(256), reject)
    dispatch |= {code: PythonUnpickler.dispatch[code] for code in map(ord, INSTRUCTIONS)}
    dispatch[ord(pickle.SETITEM)] = lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()])
    dispatch[ord(pickle.SETITEMS)] = lambda self: self.set_items(self.pop_mark())
    dispatch[ord(pickle.BUILD)] = lambda self: self.stack.pop()  # attributes of the dict, e.g. versions


def rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Return a tensor that views stored numbers."""
    if not isinstance(storage, Tensor) or math.prod(torch.Size(size)) > storage.numel():
        raise ValueError("a tensor of more numbers than are stored")
    return storage.as_strided(size, stride, offset)


FUNCTIONS: dict[str, Any] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": rebuild,
}
