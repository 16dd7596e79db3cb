"""Import modules that a user names, e.g. of environments, algorithms or policies."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from envs.errors import MissingExtraError

_NAMED: set[str] = set()  # the modules that the user named in this process


def is_named(module: str) -> bool:
    """Return whether a module is imported, and the user named it or a package that contains it."""
    parts = module.split(".")
    return module in sys.modules and any(".".join(parts[:n]) in _NAMED for n in range(1, len(parts) + 1))


def import_user_module(name: str) -> ModuleType:
    """Import a module by name. The name must come from the user, not from a file, since importing runs code.

    The module may be in the current folder, which is searched last, so that no file there hides an installed
    package.

    Raises:
        ImportError: If the module raises an error, or exits.
        MissingExtraError: If the module imports a package that is not installed.
        ModuleNotFoundError: If there is no such module; the message says if an imported package hides it.
    """
    try:
        module = importlib.import_module(name)
        _NAMED.add(name)
        return module
    except ModuleNotFoundError as error:
        _check_missing(name, error)
        here = os.getcwd()
        if here not in map(os.path.abspath, sys.path):
            sys.path.append(here)  # permanently, since worker processes and pickles import it again
            return import_user_module(name)
        top = name.partition(".")[0]
        path = getattr(sys.modules.get(top), "__file__", None)
        if path and Path(here, top).is_dir() and Path(path).parent != Path(here, top):
            raise ModuleNotFoundError(
                f"{name} is hidden by {Path(path).parent}, a package of the same name; rename "
                f"{Path(here, top)}",
                name=name,
            ) from error
        raise
    except ImportError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # an exit would end this program silently
        reason = "it calls sys.exit" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise ImportError(f"{name} was found, but its import fails: {reason}", name=name) from error


def _check_missing(name: str, error: ModuleNotFoundError) -> None:
    missing = error.name or ""
    if missing != name and not name.startswith(f"{missing}."):
        raise MissingExtraError(
            f"{name} was found, but it imports {missing!r}, which is not installed; install that package"
        ) from error
