"""Print text that may hold names from untrusted files."""

import sys
import unicodedata

# Control characters, invisible ones that reorder text, halves of characters, and separators of lines.
UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MOST = 20_000  # characters of one message


def printable(text: object) -> str:
    """Return text with its unsafe characters escaped, except newlines: no file controls the terminal."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in UNSAFE else ascii(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """Return `printable` text with newlines escaped, e.g. for the name of a file."""
    return printable(text).replace("\n", r"\n")


def show(text: object = "", *, error: bool = False) -> None:
    """Print `printable` text, on stderr if it is an error."""
    whole = printable(text)
    shown = whole if len(whole) <= MOST else f"{whole[:MOST]} … ({len(whole) - MOST} more characters)"
    print(shown, file=sys.stderr if error else sys.stdout)


def accept_any_text() -> None:
    """Let stdout and stderr replace what their encoding lacks, e.g. ± in an ASCII locale."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not if a program has put another object in its place
            stream.reconfigure(errors="replace")
