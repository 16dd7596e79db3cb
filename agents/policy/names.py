"""Names under which a user registers something, and names of classes in policy_kwargs."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from stable_baselines3.common import torch_layers
from torch import nn, optim

Class = TypeVar("Class")
# {argument of a policy: (module of its classes, their base class, a common one)}
CLASSES: dict[str, tuple[ModuleType, type, str]] = {
    "activation_fn": (nn, nn.Module, "ReLU"),
    "optimizer_class": (optim, optim.Optimizer, "Adam"),
    "features_extractor_class": (torch_layers, torch_layers.BaseFeaturesExtractor, "NatureCNN"),
}


def check_new(name: str, taken: Iterable[str], what: str) -> None:
    """Check that a name is not registered yet.

    Raises:
        ValueError: it is registered.
    """
    if name in taken:
        raise ValueError(f"the name {name!r} of the {what} is registered already; choose another one")


def with_classes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's arguments with names such as ``"ReLU"`` or ``"nn.ReLU"`` replaced by the classes.

    A configuration file can only contain names. Only classes of the kinds in `CLASSES` can be named.

    Raises:
        ValueError: there is no such class.
    """
    found = dict(kwargs)
    for argument, (module, base, usual) in CLASSES.items():
        name = found.get(argument)
        if not isinstance(name, str):
            continue
        chosen = getattr(module, name.rpartition(".")[2], None)
        if not (isinstance(chosen, type) and issubclass(chosen, base)):
            known = [
                each
                for each, kind in vars(module).items()
                if isinstance(kind, type) and issubclass(kind, base)
            ]
            close = (*difflib.get_close_matches(name, known, n=1), usual)[0]
            raise ValueError(f"{argument}: {module.__name__} has no {name!r}; use a name such as {close!r}")
        found[argument] = chosen
    return found


def find_class(name: str, base: type[Class]) -> type[Class]:
    """Return the class of "module:Class"; nothing is imported, since the name may be from an untrusted run.

    Raises:
        ValueError: the module was not imported, or has no such class derived from `base`.
    """
    module, _, attribute = name.rpartition(":")
    if module not in sys.modules:
        raise ValueError(
            f"{name!r} names a module that was not imported; if you trust it, add --import {module}"
        )
    found = getattr(sys.modules[module], attribute, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"{attribute!r} of {module} is no class derived from {base.__name__}; correct the name"
        )
    return found
