"""Names under which a user registers something."""

from collections.abc import Iterable


def check_new(name: str, taken: Iterable[str], what: str) -> None:
    """Check that a name is not registered yet.

    Raises:
        ValueError: it is.
    """
    if name in taken:
        raise ValueError(f"the name {name!r} of the {what} is registered already; choose another one")
