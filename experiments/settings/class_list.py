"""Lists of classes with arguments, in RL Zoo's forms: env_wrapper, vec_env_wrapper and callback."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ClassList = Sequence[Mapping[str, Mapping[str, Any]]]  # [{"module.Class": its arguments}, …]
# The packages whose wrappers may be used without naming them on the command line.
LIBRARIES = (
    "gymnasium.wrappers",
    "stable_baselines3.common.atari_wrappers",
    "stable_baselines3.common.vec_env",
)
FORMS = '"module.Class", {"module.Class": {name: value}}, or a list of these'


def as_class_list(value: Any, setting: str) -> list[dict[str, dict[str, Any]]]:
    """Return classes in one form: a list with one {name: arguments} per class.

    Args:
        value: a name, a mapping of names to arguments, or a list of these.
        setting: name of the setting, for messages.

    Raises:
        ValueError: the value has another form.
    """
    found: list[dict[str, dict[str, Any]]] = []
    for entry in value if isinstance(value, list | tuple) else [value]:
        for name, arguments in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
            arguments = {} if arguments is None else arguments
            if not (isinstance(name, str) and isinstance(arguments, Mapping)):
                raise ValueError(f"{setting} must be {FORMS}; got {value!r:.100}")
            if not module_of(name):
                raise ValueError(f"{setting}: {name!r:.60} lacks its module; write module.Class")
            if not all(isinstance(key, str) for key in arguments):
                raise ValueError(f"{setting}: the arguments of {name} must have names, got {arguments!r:.60}")
            found.append({name: dict(arguments)})
    return found


def module_of(name: str) -> str:
    """Return the module in "module.Class" or "module:Class"; "" if there is none."""
    return name.rpartition(":" if ":" in name else ".")[0]


def is_library(module: str) -> bool:
    """Return whether a module is in one of `LIBRARIES`."""
    return any(module == each or module.startswith(f"{each}.") for each in LIBRARIES)


def modules_of(*lists: ClassList) -> set[str]:
    """Return the modules of all classes."""
    return {module_of(name) for each in lists for entry in each for name in entry}


def entries(classes: ClassList) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return name and arguments of each class, in order."""
    return [(name, arguments) for entry in classes for name, arguments in entry.items()]
