"""Options of the suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the conformance suite be pointed at any SB3 algorithm."""
    parser.addoption(
        "--algorithm",
        action="append",
        metavar="MODULE:CLASS",
        help="run tests/agents/conformance on this on-policy SB3 algorithm in place of ours; repeatable",
    )
