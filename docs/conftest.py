"""The examples of these pages, run as tests, leave nothing registered."""

from collections.abc import Iterator

import pytest
from registries import restored_registries


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with restored_registries():
        yield
