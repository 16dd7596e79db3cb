"""Print text that may hold names from untrusted files."""

import sys
import unicodedata

# Unicode categories: control and format characters, surrogates, private use, unassigned, line separators.
UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MOST = 20_000  # characters per message


def printable(text: object) -> str:
    """Return text with unsafe characters escaped, except newlines, so that it cannot control the terminal."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in UNSAFE else ascii(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """Return `printable` text with newlines escaped, too, e.g. for a file name."""
    return printable(text).replace("\n", r"\n")


def show(text: object = "", *, error: bool = False) -> None:
    """Print `printable` text to stdout, or to stderr if it is an error."""
    whole = printable(text)
    shown = whole if len(whole) <= MOST else f"{whole[:MOST]} … ({len(whole) - MOST} more characters)"
    print(shown, file=sys.stderr if error else sys.stdout)


def accept_any_text() -> None:
    """Let stdout and stderr replace characters that their encoding lacks, e.g. ± in an ASCII locale."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program may have replaced the stream by another object
            stream.reconfigure(errors="replace")
