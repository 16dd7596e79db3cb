"""Copy MathJax from the package sphinx-mathjax-offline into the site, so that equations need no network.

The package is itself a Sphinx extension, but it copies 25 MB, of which the site needs 2.
"""

import importlib.util
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

FILES = ("tex-chtml.js", "output/chtml/fonts/woff-v2")


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the script and its fonts to where `mathjax_path` points."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if error is None and app.builder.format == "html" and spec is not None and spec.origin is not None:
        source = Path(spec.origin).parent / "static" / "mathjax"
        target = app.outdir / "_static" / "mathjax"
        for name in FILES:
            copy_asset(source / name, target / name if (source / name).is_dir() else (target / name).parent)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
