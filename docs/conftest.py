"""The examples of these pages, run as tests, leave nothing registered."""

from collections.abc import Iterator

import pytest
from registries import restored_registries

collect_ignore_glob = [
    "gallery/*"
]  # collecting doctests would execute the scripts; tests/test_gallery.py does


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with restored_registries():
        yield
