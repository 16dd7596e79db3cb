"""Read zip files of numbers, which may be untrusted: in memory of the file's size, and without running code.

SB3, PyTorch and NumPy store members without compression. A compressed one can be a thousand times larger than
its file, and is rejected. PyTorch lists its tensors in a pickle; `Interpreter` knows the few
instructions that such a list needs and rejects all others. `torch.load(weights_only=True)` runs no code
either, but takes time without bound, e.g. to hash nested tuples.
"""

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

MOST_LIST = 2**20  # bytes of the list of tensors; one tensor takes about 140
MARK, ORDERED_DICT, REBUILD = object(), object(), object()
DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
}
GLOBALS: dict[str, Any] = {f"torch {name}Storage": dtype for name, dtype in DTYPES.items()}
GLOBALS |= {"collections OrderedDict": ORDERED_DICT, "torch._utils _rebuild_tensor_v2": REBUILD}
CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": MARK,
}
ARGUMENTS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")


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
        array: np.ndarray = np.lib.format.read_array(io.BytesIO(self.read(f"{name}.npy")), allow_pickle=False)
        return array


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
    storages: dict[str, Tensor] = {}

    def storage(identity: Any) -> Tensor:
        _, dtype, key, *_ = identity
        if not (isinstance(dtype, torch.dtype) and isinstance(key, str)):
            raise ValueError("a storage has no type or name")
        if key not in storages:
            content = bytearray(archive.read(f"{folder}data/{key}"))
            storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if storages[key].dtype != dtype:
            raise ValueError("a storage has two types")
        return storages[key]

    return Interpreter(storage).run(instructions)


class Interpreter:
    """Interpret the pickle of a dict of tensors, as far as PyTorch writes one.

    Args:
        storage: returns the numbers of an identity.
    """

    def __init__(self, storage: Callable[[Any], Tensor]):
        self._storage = storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._effects: dict[str, Callable[[Any], object]] = {
            **dict.fromkeys(ARGUMENTS, self._stack.append),
            **{name: partial(self._push, value) for name, value in CONSTANTS.items()},
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda key: self._stack.append(self._memo[key])),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "GLOBAL": lambda name: self._stack.append(GLOBALS[name]),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            **{f"TUPLE{n}": partial(self._tuple, n) for n in (1, 2, 3)},
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._pop_to_mark()),
            "BINPERSID": lambda _: self._stack.append(self._storage(self._stack.pop())),
            "REDUCE": lambda _: self._call(*self._pop(2)),
            "BUILD": lambda _: self._stack.pop(),  # attributes of the dict, e.g. versions of modules
            "PROTO": lambda _: None,
        }

    def run(self, instructions: bytes) -> Any:
        """Return the value that the instructions describe.

        Raises:
            Exception: they describe none, or anything else than tensors.
        """
        for code, argument, _ in pickletools.genops(instructions):
            if code.name == "STOP":
                return self._stack.pop()
            if code.name not in self._effects:
                raise ValueError(f"the instruction {code.name}; it must map names to tensors")
            self._effects[code.name](argument)
        raise ValueError("a list of tensors without an end")

    def _push(self, value: Any, _: Any) -> None:
        self._stack.append(value)

    def _put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def _tuple(self, count: int, _: Any) -> None:
        self._stack.append(tuple(self._pop(count)))

    def _pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        start = next(i for i in reversed(range(len(self._stack))) if self._stack[i] is MARK)
        return self._pop(len(self._stack) - start)[1:]

    def _set(self, items: list[Any]) -> None:
        mapping, keys = self._stack[-1], items[::2]
        if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        mapping.update(zip(keys, items[1::2], strict=True))

    def _call(self, function: Any, arguments: Any) -> None:
        if function is ORDERED_DICT:
            self._stack.append({})
            return
        storage, offset, size, stride, *_ = arguments
        if function is not REBUILD or not isinstance(storage, Tensor) or math.prod(size) > storage.numel():
            raise ValueError("a tensor of more numbers than are stored")
        self._stack.append(storage.as_strided(size, stride, offset))
