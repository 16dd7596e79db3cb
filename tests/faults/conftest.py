"""One server for all fault tests."""

from collections.abc import Iterator

import pytest
from faults.harness import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A process that has imported train.py."""
    with Server() as running:
        yield running
