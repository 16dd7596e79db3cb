"""Show the repository's files as pages of the site, with an anchor at every line.

A link of a Markdown page to a file of the repository, e.g. ``../npg/objective.py#L102``, leads to that page,
and so do the links [source] of the API reference. A link to a folder leads to a list of its files. A link to
the folder docs/gallery, or to a script in it, leads to the page that sphinx-gallery makes of it.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterator
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


def collect_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for every module of the packages, and for every other file or folder that is linked to."""
    modules = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = {path.relative_to(ROOT).as_posix() for path in modules} | pages(app)
    formatter = HtmlFormatter(
        linenos="inline", anchorlinenos=True, lineanchors="L", linespans="line", cssclass="highlight"
    )
    for name in sorted(names):
        path = ROOT / name
        if path.is_dir():
            files = "".join(f"<li>{file.name}</li>" for file in sorted(path.iterdir()) if file.is_file())
            body = f"<ul>{files}</ul>"
        else:
            text = path.read_text(encoding="utf-8")
            body = highlight(text, lexer_of(name), formatter)
        yield page_of(name), {"title": name, "body": f"<h1>{name}</h1>{body}"}, "page.html"


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
    app.connect("html-collect-pages", collect_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
