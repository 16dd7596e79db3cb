"""Read the YAML of a run folder, which may be untrusted."""

from pathlib import Path
from typing import Any

import yaml

from experiments.run.atomic_file import reading

MOST = 128 * 2**10  # bytes: settings have a few thousand, and YAML is slow to read
MOST_ALIASES = 20  # a few are YAML's way to write a list twice; many nested ones unfold without end
MOST_VALUES = 100_000
MOST_BRACKETS = 500  # reading nested ones takes the square of their number
LARGEST = 2**64  # of an integer; printing very long ones is an error


def read(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; nothing in it is executed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds anything else; names the file.
    """
    with reading(path, MOST) as file:
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
        if (brackets := text.count("[") + text.count("{")) > MOST_BRACKETS:
            raise ValueError(f"it has {brackets} brackets")
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if aliases > MOST_ALIASES:
            raise ValueError(f"it has {aliases} aliases")
        document = yaml.safe_load(text)
        check_plain(document)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())[:500] or type(error).__name__
        raise ValueError(f"{source} is not plain YAML ({problem})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{source} must map names to settings, got {type(document).__name__}")
    return document


def check_plain(document: Any) -> None:
    """Raise ValueError unless a document holds texts, numbers, lists and mappings with texts as keys."""
    left, count = [document], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
        if isinstance(value, dict):
            left += [*value, *value.values()]
            if not all(isinstance(key, str) for key in value):
                raise ValueError("a key is no text")
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            value.encode()  # a lone half of a character is no text
        elif isinstance(value, int):
            if abs(value) > LARGEST:
                raise ValueError("an integer is too large")
        elif not isinstance(value, float | None):
            raise ValueError(f"a value is a {type(value).__name__}")
