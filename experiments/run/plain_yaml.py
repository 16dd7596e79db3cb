"""Read the YAML of a run folder, which may be untrusted."""

from pathlib import Path
from typing import Any

import yaml

from agents.untrusted_file import reading

MOST = 128 * 2**10  # bytes; settings take a few thousand, and YAML is slow to parse
MOST_ALIASES = 20  # YAML uses a few for repeated lists; nested ones expand exponentially
MOST_VALUES = 100_000
MOST_BRACKETS = 500  # the time to parse nested brackets grows with the square of their number
LARGEST = 2**64  # largest absolute integer; Python raises an error when it prints very long ones


def read(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; nothing in it is executed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds anything else; the message names the file.
    """
    with reading(path, MOST) as file:
        return parse(file.read(), path)


def parse(content: str | bytes, source: object) -> dict[str, Any]:
    """Parse a YAML mapping.

    Args:
        content: the YAML; bytes are decoded as UTF-8.
        source: the name of the content in error messages.

    Raises:
        ValueError: the content is not YAML, is no mapping, or has tags that would execute code.
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
    """Raise ValueError unless a document holds only strings, numbers, None, lists and dicts with str keys."""
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
            value.encode()  # raises a ValueError at a lone surrogate
        elif isinstance(value, int):
            if abs(value) > LARGEST:
                raise ValueError("an integer is too large")
        elif not isinstance(value, float | None):
            raise ValueError(f"a value is a {type(value).__name__}")
