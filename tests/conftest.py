"""Options of the suite."""

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the conformance suite be pointed at any SB3 algorithm."""
    parser.addoption(
        "--algorithm",
        action="append",
        metavar="MODULE:CLASS",
        help="run tests/agents/conformance on this on-policy SB3 algorithm in place of ours; repeatable",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
