"""A stand-in for a GPU: torch's meta device, with what a GPU rejects or is slow at as errors.

Meta tensors have shapes and dtypes but no numbers. torch lets them meet CPU tensors silently in `@`, `copy_`
and indexing; a GPU does not, or stops to transfer. `DeviceGuard` makes each of these an error, and every read
of a number by the host that does not go through `npg.host.read`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from npg import host

TORCH, TORCH_OPTIMIZERS = (str(Path(module.__file__).parent) for module in (torch, torch.optim))
# What host.read returns for the names that decide which way an update goes; every other number is 1.
READINGS = {"kl": 1e-3, "gain": 1e-3, "outcome": 0.0, "residual": 0.1}


class HostReadError(AssertionError):
    """The host read a number from the device without `npg.host.read`."""


class MixedDevicesError(AssertionError):
    """An operation had tensors of two devices."""


class DeviceGuard(TorchDispatchMode):
    """Rejects operations that mix devices, and host reads; torch's own optimizers may read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check the operation's tensors, then run it."""
        kwargs = kwargs or {}
        name = func.name()
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if tensor.device.type == "meta"]
        if name == "aten::_to_copy":
            target = kwargs.get("device")
            if on_device and target is not None and torch.device(target).type == "cpu":
                raise HostReadError("a tensor was copied to the CPU")
            return func(*args, **kwargs)
        if on_device and name in ("aten::_local_scalar_dense", "aten::item", "aten::equal"):
            if _called_by_an_optimizer():
                return 1.0
            raise HostReadError(f"{name} on a tensor of the device")
        strangers = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        # As on a GPU, a scalar of the CPU may enter an element-wise operation.
        if on_device and any(tensor.ndim > 0 or "copy_" in name for tensor in strangers):
            raise MixedDevicesError(f"{name} of tensors on the CPU and on the device")
        return func(*args, **kwargs)


def _called_by_an_optimizer() -> bool:
    """Return whether the nearest Python frame is in torch.optim, torch's other frames passed over."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(TORCH):
        if frame.f_code.co_filename.startswith(TORCH_OPTIMIZERS):
            return True
        frame = frame.f_back
    return False


@contextmanager
def device_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """Run with a guard and without numbers; give the names of every host read."""
    reads: list[tuple[str, ...]] = []

    def read(**scalars: Tensor) -> dict[str, float]:
        assert all(scalar.ndim == 0 for scalar in scalars.values())
        if scalars:
            reads.append(tuple(scalars))
        return {name: READINGS.get(name, 1.0) for name in scalars}

    def fetch(*tensors: Tensor) -> list[Tensor]:
        reads.append(("fetch",))
        return [torch.ones(tensor.shape, dtype=tensor.dtype) for tensor in tensors]

    with monkeypatch.context() as patch:
        patch.setattr(host, "read", read)
        patch.setattr(host, "fetch", fetch)
        patch.setattr(host, "peek", lambda condition: None)
        with DeviceGuard():
            yield reads
