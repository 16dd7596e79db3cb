"""The documentation points at lines and files that are there.

A pointer is a link to a line of code, followed by what stands there, on one line of the document:

    [`npg/fisher.py:67`](../npg/fisher.py#L67) `weighed = ...`

When code moves, the failure says where each quotation went, as a sed command that mends that pointer.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if path.exists())

POINTER = re.compile(
    r"\[`(?P<path>[^`:]+):(?P<line>\d+)`\]\((?P<target>[^)#]+)#L(?P<anchor>\d+)\) `(?P<code>[^`]+)`"
)
LINK_TO_LINE = re.compile(r"\]\((?![a-z]+:)[^)]*#L\d+")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)[^)]*\)|(?:src|href)=\"(?P<attribute>[^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z]+:|#")  # https:, mailto:, or an anchor in the same document


def stale_pointers(document: Path, root: Path) -> list[str]:
    """Return a complaint for every pointer of the document that misses its line."""
    complaints = []
    for number, text in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        here = f"{document.relative_to(root)}:{number}"
        pointers = list(POINTER.finditer(text))
        if len(pointers) != len(LINK_TO_LINE.findall(text)):
            complaints.append(f"{here}: write a link to a line as [`path:1`](../path#L1) `code on that line`")
        for pointer in pointers:
            path, line, code = pointer["path"], int(pointer["line"]), pointer["code"]
            file = root / path
            if (document.parent / pointer["target"]).resolve() != file.resolve():
                complaints.append(f"{here}: the link shows {path} but leads to {pointer['target']}")
            elif not file.is_file():
                complaints.append(f"{here}: there is no file {path}")
            elif line != int(pointer["anchor"]):
                complaints.append(f"{here}: the link shows line {line} but leads to {pointer['anchor']}")
            elif line not in (places := places_of(code, file)):
                complaints.append(f"{here}: {path}:{line} is no longer `{code}`; " + advice(places))
                complaints += [f"    {mend(document, root, number, path, line, places[0])}"] if places else []
    return complaints


def places_of(code: str, file: Path) -> list[int]:
    """Return the numbers of the lines that equal the code, or else of those that contain it."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    whole = [number for number, line in enumerate(lines, 1) if line == code]
    return whole or [number for number, line in enumerate(lines, 1) if code in line]


def advice(places: list[int]) -> str:
    """Return a clause that says where the code is now."""
    if not places:
        return "nor does it stand elsewhere in the file: quote what does this step now"
    return f"it stands on line {' or '.join(map(str, places))} now"


def mend(document: Path, root: Path, number: int, path: str, line: int, new: int) -> str:
    """Return the command that moves one pointer to its new line."""
    shown, anchor = f"{number}s|{path}:{line}`|{path}:{new}`|", f"{number}s|{path}#L{line})|{path}#L{new})|"
    return f"sed -i '{shown}; {anchor}' {document.relative_to(root)}"


def broken_links(document: Path) -> list[str]:
    """Return the document's relative links, outside of code, that lead to no file."""
    prose = re.sub(
        r"^```.*?^```$|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    targets = [link["target"] or link["attribute"] for link in LINK.finditer(prose)]
    local = [target for target in targets if not ELSEWHERE.match(target)]
    return [target for target in local if not (document.parent / target.split("#")[0]).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pointers_quote_the_line_they_point_at(document):
    """Every pointer's line holds the code that it quotes."""
    complaints = stale_pointers(document, ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(document):
    """Every relative link leads to a file or folder of the repository."""
    broken = broken_links(document)
    assert not broken, f"{document.relative_to(ROOT)} links to what is not there: {', '.join(broken)}"


@pytest.fixture
def project(tmp_path):
    """A repository of one module and one document, not yet written."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text("\nx = 1\nif x:\n    y = 2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[`code.py:2`](../code.py#L2) `x = 1`, [`code.py:4`](../code.py#L4) `y = 2`", None),
        ("[`code.py:3`](../code.py#L3) `y = 2`", "it stands on line 4 now"),
        (
            "[`code.py:9`](../code.py#L9) `y = 2`",
            "sed -i '1s|code.py:9`|code.py:4`|; 1s|code.py#L9)|code.py#L4)|'",
        ),
        ("[`code.py:2`](../code.py#L2) `x = 3`", "quote what does this step now"),
        ("[`code.py:2`](../code.py#L3) `x = 1`", "shows line 2 but leads to 3"),
        ("[`code.py:2`](../other.py#L2) `x = 1`", "leads to ../other.py"),
        ("[`other.py:2`](../other.py#L2) `x = 1`", "there is no file other.py"),
        ("[here](../code.py#L2)", "write a link to a line as"),
    ],
)
def test_a_stale_pointer_is_reported_with_its_new_line(project, text, complaint):
    """Good pointers pass; of the others, the complaint says what to write."""
    document = project / "docs" / "page.md"
    document.write_text(text)
    complaints = "\n".join(stale_pointers(document, project))
    assert complaint in complaints if complaint else not complaints


def test_a_broken_link_is_found(project):
    """Links to files pass, links elsewhere and code are left alone, the rest is named."""
    document = project / "docs" / "page.md"
    document.write_text(
        '[a](../code.py#L1) [b](https://a.b/c) [c](#part) `[d](gone)` <img src="gone.png"> [e](gone.md)\n'
        "```python\nx[0](gone)\n```\n"
    )
    assert broken_links(document) == ["gone.png", "gone.md"]
