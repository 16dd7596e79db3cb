"""One server and one finished run for all fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.harness import SHORT, Server, logs_of, run_folder

SETTINGS = (
    "normalize=true",
    "policy_kwargs={normalize_observations: false, normalize_returns: false, net_arch: [8]}",
)
ARGV = ("--algo", "npg", "--env", "Pendulum-v1", "--vec-env", "dummy", *SHORT, *SETTINGS)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A process that has imported train.py."""
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def finished(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a normaliser."""
    out = tmp_path_factory.mktemp("finished") / "runs"
    started = server.run(logs_of(out), *ARGV, "--out", out)
    assert started.code == 0, started.output
    return run_folder(out, "npg", "Pendulum-v1")
