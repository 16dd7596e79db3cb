"""Build the site: `sphinx-build -W docs build/docs`. It needs the extra `docs`, and no network."""

import os
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

project = "npg-toolkit"
author = "the authors of npg-toolkit"
project_copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "command_help",
    "docstrings",
    "internal_links",
    "local_mathjax",
    "source_pages",
]
exclude_patterns = ["gallery"]  # sphinx-gallery writes its pages to gallery_pages/

# Equations: the MathJax of the package sphinx-mathjax-offline; see extensions/local_mathjax.py.
mathjax_path = "mathjax/tex-chtml.js"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None}

highlight_language = "text"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = False

autodoc_mock_imports = ["ray"]  # all other optional packages are imported by functions
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
default_role = "py:obj"  # `name` in a docstring is a link if the reference has that name

# Its scripts also write their figures to a file, which is not needed here.
os.environ["GALLERY_OUT"] = str(Path(tempfile.gettempdir()) / "npg-gallery-figure.png")
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_pages",
    "filename_pattern": r"\.py$",  # all are run
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = "npg-toolkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
