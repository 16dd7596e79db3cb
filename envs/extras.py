"""Say how to install the packages that only some tasks or commands need."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "npg-toolkit"


def install_command(extra: str = "", package: str = "") -> str:
    """Return the command that installs an extra, or a package: from the checkout, if there is one.

    Args:
        extra: an extra of pyproject.toml.
        package: a package that is in no extra.
    """
    place = checkout()
    if place is None:  # a wheel; the project is on no index
        return shlex.join(["pip", "install", *([package] if package else requirements(extra))])
    what = package or f'-e "{place or "."}[{extra}]"'
    return f"pip install -c {shlex.quote(f'{place}constraints.txt')} {what}"


def checkout() -> str | None:
    """Return the checkout's path with a slash at the end; "" for the current folder, None for a wheel."""
    project = Path("pyproject.toml")
    if project.is_file() and f'name = "{DISTRIBUTION}"' in project.read_text(
        encoding="utf-8", errors="replace"
    ):
        return ""
    about = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    if not about.get("dir_info", {}).get("editable"):
        return None
    return f"{unquote(urlsplit(about['url']).path)}/"


def requirements(extra: str) -> Iterator[str]:
    """Yield the requirements of an extra, as the installed distribution declares them."""
    for line in metadata.requires(DISTRIBUTION) or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if re.search(rf"""extra == ['"]{re.escape(extra)}['"]""", marker):
            nested = re.fullmatch(rf"{DISTRIBUTION}\[(.+)\]", requirement)
            if nested:
                for each in nested[1].split(","):
                    yield from requirements(each)
            else:
                yield requirement
