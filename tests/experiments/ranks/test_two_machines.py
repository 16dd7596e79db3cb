"""A run on two machines, played by two network namespaces joined by a virtual cable."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.comparison import differences
from torchrun import ROOT, environment, run

pytestmark = pytest.mark.slow

NAMES = ("npg-test-0", "npg-test-1")
OPTIONS = ("--algo", "trpo", "--steps", 6000, "--episodes", 3, "--vec-env", "dummy", "--n-envs", 5)


def ip(*words: str) -> None:
    """Run the system's `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[None]:
    """Make two namespaces with the addresses 10.91.0.1 and 10.91.0.2."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "npg0", "netns", NAMES[0], "type", "veth", "peer", "npg1", "netns", NAMES[1])
        for number, name in enumerate(NAMES):
            ip("-n", name, "addr", "add", f"10.91.0.{number + 1}/24", "dev", f"npg{number}")
            ip("-n", name, "link", "set", f"npg{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove()
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield
    remove()


def remove() -> None:
    """Remove the namespaces, and with them their interfaces."""
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start(number: int, out: Path) -> subprocess.Popen[str]:
    """Start the rank of one machine."""
    rendezvous = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.91.0.1:29400"]
    local = [
        "--rdzv-id",
        "test",
        "--rdzv-conf",
        f"is_host={1 - number}",
        "--local-addr",
        f"10.91.0.{number + 1}",
        "--nproc-per-node",
        "1",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", *rendezvous, *local]
    variables = environment() | {"GLOO_SOCKET_IFNAME": f"npg{number}"}
    return subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            NAMES[number],
            *launcher,
            ROOT / "train.py",
            *map(str, OPTIONS),
            "--out",
            out,
        ],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_machines_give_the_bits_of_one(machines: None, tmp_path: Path) -> None:
    """Over TCP, with one rank on each."""
    launchers = [start(number, tmp_path / "two") for number in range(2)]
    printed = [launcher.communicate(timeout=200)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(printed)
    run(2, ROOT / "train.py", *OPTIONS, "--out", tmp_path / "one", folder=tmp_path)
    two, one = (tmp_path / name / "CartPole-v1" / "trpo" / "seed-0" for name in ("two", "one"))
    assert differences(two, one) == []
