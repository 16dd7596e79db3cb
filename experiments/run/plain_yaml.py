"""Read the YAML of a run folder, which may be untrusted."""

from pathlib import Path
from typing import Any

import yaml

from experiments.run.atomic_file import MOST_TEXT, reading

MOST_ALIASES = 20  # a few are YAML's way to write a list twice; many nested ones unfold without end


def read(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; nothing in it is executed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds anything else; names the file.
    """
    with reading(path, MOST_TEXT) as file:
        return parse(file.read(), path)


def parse(content: str | bytes, source: object) -> dict[str, Any]:
    """Return the mapping that YAML holds, in UTF-8 if in bytes.

    Args:
        content: of a file.
        source: what an error calls it.

    Raises:
        ValueError: it is not YAML, has tags that call for code, or holds no mapping.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if aliases > MOST_ALIASES:
            raise ValueError(f"it has {aliases} aliases")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source} is not plain YAML ({problem})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{source} must map names to settings, got {type(document).__name__}")
    return document
