"""The directive `command-help NAME`: the output of `npg NAME --help`."""

import os
import subprocess
import sys
import textwrap
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH = 100


class CommandHelp(SphinxDirective):
    """Run the command and show what it prints."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a block of plain text."""
        shown = subprocess.run(
            [sys.executable, "-m", "experiments.command", *self.arguments, "--help"],
            env={**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        text = "\n".join(
            textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in shown.stdout.splitlines()
        )
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
