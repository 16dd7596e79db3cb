"""Show the repository's files as pages of the site, with an anchor at every line.

A link of a Markdown page to a file of the repository, e.g. ``../npg/objective.py#L102``, leads to that page,
and so do the links [source] of the API reference. A link to a folder leads to a list of its files. A link to
the folder docs/gallery, or to a script in it, leads to the page that sphinx-gallery makes of it.
"""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GALLERY, GALLERY_PAGES = DOCS / "gallery", DOCS / "gallery_pages"
PACKAGES = ("npg", "agents", "envs", "experiments")
SCHEME = "source:"
LINK = re.compile(r"\]\((?P<target>[^)\s:#]+)(?:#L(?P<line>\d+))?\)")
STYLE = """body { font-family: sans-serif; margin: 1em; }
.highlight { font-size: 0.9em; overflow-x: auto; }
.linenos { user-select: none; padding-right: 1em; color: #888; }
a { color: inherit; text-decoration: none; }
:target, a:target + span { background: #ffffcc; }
""" + HtmlFormatter().get_style_defs(".highlight")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{style}</style></head>
<body><p><a href="{start}">npg-toolkit</a></p><h1>{name}</h1>{body}</body>
</html>
"""


def mark_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give links to files outside of docs/ the scheme that `resolve_links` looks for."""
    folder = Path(app.env.doc2path(docname)).parent

    def marked(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link["target"]))
        if path == GALLERY or path.parent == GALLERY:
            page = GALLERY_PAGES / f"{'index' if path == GALLERY else path.stem}.rst"
            return f"]({os.path.relpath(page, folder)})"
        if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT) or not path.exists():
            return link[0]
        line = f"#L-{link['line']}" if link["line"] else ""
        return f"]({SCHEME}{path.relative_to(ROOT).as_posix()}{line})"

    content[0] = LINK.sub(marked, content[0])


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the scheme by the address of the page, relative to the page of the link."""
    for node in doctree.findall(nodes.reference):
        if node.get("refuri", "").startswith(SCHEME):
            path, _, line = node["refuri"].removeprefix(SCHEME).partition("#")
            pages(app).add(path)
            uri = app.builder.get_relative_uri(docname, page_of(path))
            node["refuri"] = f"{uri}#{line}" if line else uri


def pages(app: Sphinx) -> set[str]:
    """Return the files, in addition to the packages' modules, that get a page."""
    if not hasattr(app.env, "source_pages"):
        app.env.source_pages = set()
    return app.env.source_pages


def page_of(path: str) -> str:
    """Return the name of the page that shows a file."""
    return f"source/{path}"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the address of an object's source, relative to a page in api/."""
    found: Any = sys.modules.get(info["module"])
    for name in info["fullname"].split("."):
        found = getattr(found, name, None)
    try:
        found = inspect.unwrap(found.fget if isinstance(found, property) else found)
        path = Path(inspect.getsourcefile(found) or "").resolve()
        line = inspect.getsourcelines(found)[1]
    except (TypeError, OSError, ValueError):
        return None
    if not path.is_relative_to(ROOT):
        return None
    return f"../{page_of(path.relative_to(ROOT).as_posix())}.html#L-{line}"


def write_pages(app: Sphinx, error: Exception | None) -> None:
    """Write a page for every module of the packages, and for every other file or folder that is linked to.

    They are not made from the theme's template, whose list of contents would take a minute for all of them.
    """
    if error is not None or app.builder.format != "html":
        return
    modules = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    formatter = HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="L")
    for name in sorted({path.relative_to(ROOT).as_posix() for path in modules} | pages(app)):
        path, target = ROOT / name, app.outdir / f"{page_of(name)}.html"
        if path.is_dir():
            files = sorted(file.name for file in path.iterdir() if file.is_file())
            body = f"<ul>{''.join(f'<li>{file}</li>' for file in files)}</ul>"
        else:
            body = highlight(path.read_text(encoding="utf-8"), lexer_of(name), formatter)
        start = f"{'../' * page_of(name).count('/')}index.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(PAGE.format(name=name, start=start, style=STYLE, body=body), encoding="utf-8")


def lexer_of(name: str) -> Any:
    """Return the Pygments lexer of a file, or the one for plain text."""
    try:
        return get_lexer_for_filename(name)
    except ClassNotFound:
        return TextLexer()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.config.linkcode_resolve = linkcode_resolve
    app.connect("source-read", mark_links)
    app.connect("doctree-resolved", resolve_links)
    app.connect("build-finished", write_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
