"""Encode tensors and plain data as bytes, and decode them without running any code."""

import json
import math
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from agents.rollout.finite import NonFiniteError

STRUCTURE = "structure"  # the name of an additional tensor, which holds the structure as JSON in bytes
LEAST_TAGGED = 2**63  # longer integers are stored as hexadecimal text, since JSON readers may reject them

DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)


def to_bytes(content: Any) -> bytes:
    """Encode content as safetensors: numbered tensors, and the structure as JSON.

    Equal content gives equal bytes.

    Args:
        content: tensors, arrays, NumPy scalars, str, int, float, bool and None, in any nesting of lists,
            tuples and dicts with keys of str or int. Instances of subclasses are decoded as the plain type.
            Tensors are decoded on the CPU, contiguous and without gradient. Of a view, only its own elements
            are stored.

    Raises:
        NonFiniteError: a number is NaN or infinite; the message says where in the content.
        TypeError: a value has another type; the message says where in the content.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(content, "", tensors), separators=(",", ":"))
    tensors[STRUCTURE] = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
    return bytes(safetensors.torch.save(tensors))


def from_bytes(payload: bytes) -> Any:
    """Decode what `to_bytes` returned.

    Raises:
        ValueError: the bytes are not what `to_bytes` returns.
    """
    try:
        tensors = safetensors.torch.load(payload)
        structure = json.loads(tensors.pop(STRUCTURE).numpy().tobytes())
        content = decode(structure, tensors)
    except (SafetensorError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"it is invalid: {error!r}") from error
    if tensors:
        raise ValueError(f"the structure does not use tensors {', '.join(sorted(tensors))}")
    return content


def encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Encode a value for JSON; types that JSON lacks become a dict with one item, {kind: data}.

    Args:
        value: any content.
        place: keys of the value in the content, joined by dots; for error messages.
        tensors: a dict that the value's tensors are added to.

    Raises:
        NonFiniteError, TypeError: see `to_bytes`.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):  # first, since np.float64 is also a float
        name = str(len(tensors))
        tensors[name] = copy_tensor(value, place or "the content")
        kinds = {Tensor: "tensor", np.ndarray: "array", np.generic: "scalar"}
        return {next(kind for type_, kind in kinds.items() if isinstance(value, type_)): name}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < LEAST_TAGGED else {"integer": hex(value)}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{place or 'the content'} is {value}; a checkpoint holds finite numbers only"
            )
        return value
    if isinstance(value, list | tuple):
        items = [encode(item, join(place, i), tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"{place or 'the content'} has the key {key!r}; keys must be str or int")
        return {"dict": [[key, encode(item, join(place, key), tensors)] for key, item in value.items()]}
    raise TypeError(
        f"{place or 'the content'} is a {type(value).__qualname__}; a checkpoint holds tensors, arrays, str, "
        "int, float, bool, None, lists, tuples and dicts: take its state, such as state_dict() or list(...)"
    )


def join(place: str, key: str | int) -> str:
    """Return the place of an item."""
    return f"{place}.{key}" if place else str(key)


def copy_tensor(value: Tensor | np.ndarray | np.generic, place: str) -> Tensor:
    """Copy a value into a contiguous tensor on the CPU that shares no memory with it.

    Raises:
        NonFiniteError: a number is NaN or infinite.
        TypeError: the value's dtype or layout cannot be stored.
    """
    dtype = value.dtype
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError):  # strings, objects, non-native byte orders
        tensor = None
    if tensor is None or tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise TypeError(
            f"{place} is a {type(value).__qualname__} of {dtype}; a checkpoint holds dense booleans, "
            "integers and real numbers of at most 64 bits"
        )
    # Not clone(), which keeps strides and lazy negation.
    copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    bad = int((~torch.isfinite(copy)).sum()) if copy.is_floating_point() else 0
    if bad:
        raise NonFiniteError(
            f"{place} has {bad} NaN or infinite among its {copy.numel()} numbers; "
            "a checkpoint holds finite ones only"
        )
    return copy


def decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    """Decode a node that `encode` returned, and remove its tensors from `tensors`.

    Raises:
        ValueError: the node is invalid; an untrusted one may also raise LookupError or TypeError.
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        if isinstance(node, float) and not math.isfinite(node):
            raise ValueError(f"{node} is no finite number")
        return node
    [(kind, data)] = node.items()
    if kind == "tuple":
        return tuple(decode(item, tensors) for item in data)
    if kind == "dict":
        if not all(isinstance(key, str | int) for key, _ in data):
            raise ValueError("a key is neither str nor int")
        return {key: decode(item, tensors) for key, item in data}
    if kind == "integer":
        return int(data, 16)
    if kind in ("tensor", "array", "scalar"):
        # A copy has torch's own memory alignment, on which the last bits of sums depend.
        tensor = copy_tensor(tensors.pop(data), f"tensor {data}")
        return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.numpy()[()]
    raise ValueError(f"there is no {kind!r} in a checkpoint")
