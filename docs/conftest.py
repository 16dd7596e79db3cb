"""The examples of these pages, run as tests, leave nothing registered."""

from collections.abc import Iterator

import pytest
from registries import restored_registries

# Only pages have examples to collect. Importing a script of the gallery would run it.
collect_ignore_glob = ["conf.py", "extensions/*", "gallery/*", "gallery_pages/*"]


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with restored_registries():
        yield
