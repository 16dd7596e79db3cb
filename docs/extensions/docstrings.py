"""Read an indented block of a docstring as code, as Markdown does."""

import re
from typing import Any

from sphinx.application import Sphinx

INDENTED = re.compile(r" {4,}\S")


def mark_code(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Write `::` before every indented block that follows a line of text and an empty line."""
    marked: list[str] = []
    text = ""  # the last line with text
    for line in lines:
        starts = bool(INDENTED.match(line)) and bool(marked) and not marked[-1].strip()
        if starts and not INDENTED.match(text) and not text.endswith("::") and not text.startswith(".."):
            marked += ["::", ""]
        marked.append(line)
        text = line if line.strip() else text
    lines[:] = marked


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; napoleon, which reads the sections "Args:" and "Raises:", comes later."""
    app.connect("autodoc-process-docstring", mark_code, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
