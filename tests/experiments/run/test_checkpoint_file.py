"""A checkpoint's file: whole or refused, whatever happened while it was written or since."""

import os
import pickle
import re
import resource
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.rollout.finite import NonFiniteError
from experiments.run.atomic_file import PARTIAL
from experiments.run.checkpoint_file import (
    HEADER,
    MAGIC,
    VERSION,
    CheckpointWriteError,
    CorruptCheckpointError,
    hashlib,
    read,
    write,
)
from experiments.run.plain_data import to_bytes

CONTENT = {"policy": {"weight": torch.arange(12.0).reshape(3, 4), "step": torch.tensor(3)}, "steps": 2**80}
OTHER = {"policy": {"weight": torch.zeros(3, 4), "step": torch.tensor(4)}, "steps": 5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    write(tmp_path / "a.ckpt", CONTENT)
    return tmp_path / "a.ckpt"


def same(one: Any, two: Any) -> bool:
    """Whether two contents agree bit for bit; test_plain_data.py holds bytes and content to each other."""
    return to_bytes(one) == to_bytes(two)


def with_checksum(payload: bytes, version: int = VERSION) -> bytes:
    """Return a file as a stranger can make it: the payload is theirs, the checksum is right."""
    return HEADER.pack(MAGIC, version, len(payload), hashlib.sha256(payload).digest()) + payload


def test_content_returns(path: Path) -> None:
    """A second write replaces the first, a folder is made on the way, and nothing else stays behind."""
    assert same(read(path), CONTENT)
    write(path, OTHER)
    assert same(read(path), OTHER)
    write(path.parent / "deep" / "er" / "b.ckpt", CONTENT)
    assert same(read(path.parent / "deep" / "er" / "b.ckpt"), CONTENT)
    assert sorted(p.name for p in path.parent.rglob("*") if p.is_file()) == ["a.ckpt", "b.ckpt"]


def test_what_cannot_be_stored_touches_no_file(path: Path) -> None:
    """NaN, infinity and foreign objects are refused before anything is opened."""
    before = path.read_bytes()
    with pytest.raises(NonFiniteError, match=r"policy\.log_std"):
        write(path, {"policy": {"log_std": torch.tensor([0.0, float("nan")])}})
    with pytest.raises(TypeError, match=r"policy is a Linear"):
        write(path, {"policy": torch.nn.Linear(1, 1)})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Damage.


def damaged(data: bytes, randomness: np.random.Generator) -> bytes:
    """Return data with flipped bits, a lost end, inserted, lost or swapped bytes; never equal to data."""
    changed = bytearray(data)
    place, end = sorted(randomness.choice(len(data), size=2, replace=False))
    match randomness.integers(6):
        case 0:
            for bit in randomness.choice(8 * len(data), size=randomness.integers(1, 4), replace=False):
                changed[bit // 8] ^= 1 << (bit % 8)
        case 1:
            del changed[place:]
        case 2:
            changed[place:place] = randomness.bytes(randomness.integers(1, 20))
        case 3:
            del changed[place:end]
        case 4:
            changed[place:end] = bytes(byte ^ 255 for byte in changed[place:end])
        case 5:
            changed += randomness.bytes(randomness.integers(1, 20))
    return bytes(changed)


def refuses(path: Path, seed: int, count: int) -> None:
    """Hold `read` to refusing every one of so many damaged files, by name."""
    data, randomness = path.read_bytes(), np.random.default_rng(seed)
    for _ in range(count):
        path.write_bytes(damaged(data, randomness))
        assert path.read_bytes() != data
        with pytest.raises(CorruptCheckpointError, match=r"a\.ckpt is no valid checkpoint: its? ") as caught:
            read(path)
        assert caught.value.path == path
        assert "is invalid" not in caught.value.reason  # nothing damaged comes as far as the parser


def test_random_damage_is_refused(path: Path) -> None:
    """300 files."""
    refuses(path, 0, 300)


@pytest.mark.slow
def test_much_random_damage_is_refused(path: Path) -> None:
    """3000 files."""
    refuses(path, 1, 3000)


def test_every_truncation_and_every_flipped_byte_is_refused(path: Path) -> None:
    """At each place of a whole file, a small one, one after the other."""
    write(path, [1])
    data = path.read_bytes()
    for place in range(len(data)):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]):
            path.write_bytes(changed)
            with pytest.raises(CorruptCheckpointError):
                read(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"NPG-", "it ends after 4 bytes, within the header"),
        (b"PK\x03\x04 a model.zip of SB3's", r"it begins with b'PK"),
        (with_checksum(to_bytes(CONTENT), version=2), "it has format 2; this version reads 1"),
        (with_checksum(to_bytes(CONTENT)) + b"x", r"it has \d+ bytes; \d+ were written"),
        (HEADER.pack(MAGIC, VERSION, 3, bytes(32)) + b"abc", "its checksum differs"),
        (with_checksum(b"abc"), "its checksum fits its bytes, but it is invalid"),
    ],
    ids=["empty", "header", "zip", "version", "longer", "checksum", "payload"],
)
def test_damage_is_named(path: Path, data: bytes, reason: str) -> None:
    """Each kind with its own words."""
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=reason):
        read(path)


def test_what_is_no_file_is_refused(path: Path) -> None:
    """Missing, a folder, a dead link, or a pipe, which is not waited for."""
    (path.parent / "link").symlink_to("nowhere")
    os.mkfifo(path.parent / "pipe")
    for place in (
        path.parent / "missing",
        path.parent,
        path.parent / "link",
        path.parent / "pipe",
        path / "x",
    ):
        with pytest.raises(CorruptCheckpointError, match="there is no such file"):
            read(place)


def test_a_file_that_cannot_be_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's reason; root may read all, so that the system is played."""

    def fstat(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(CorruptCheckpointError, match="Input/output"):
        patch.setattr(os, "fstat", fstat)
        read(path)


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1])
def test_a_crafted_length_asks_for_no_memory(path: Path, length: int) -> None:
    """Nor does one inside the payload, whose checksum is right."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        for data in (
            HEADER.pack(MAGIC, VERSION, length, bytes(32)) + b"abc",
            with_checksum(struct.pack("<Q", length) + b"{}"),
            with_checksum(
                to_bytes(torch.zeros(2)).replace(
                    b'"shape":[2]', b'"shape":[%d]' % length
                )  # and its header's length
            ),
        ):
            path.write_bytes(data)
            with pytest.raises(CorruptCheckpointError):
                read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Evil:
    """Makes a file as it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_code_in_a_file_does_not_run(path: Path, tmp_path: Path) -> None:
    """Pickles, bare, in torch's file, or under a right header, are refused unopened."""
    marker = tmp_path / "ran"
    bare = pickle.dumps(Evil(marker))
    torch.save(Evil(marker), tmp_path / "torch")
    for data in (bare, (tmp_path / "torch").read_bytes()):
        for file in (data, with_checksum(data)):
            path.write_bytes(file)
            with pytest.raises(CorruptCheckpointError):
                read(path)
    assert not marker.exists()
    pickle.loads(bare)
    assert marker.exists()  # it would have


# Crashes and full disks.


def fails_cleanly(path: Path, reason: str) -> None:
    """Hold a failing write to its promises: the reason, the space, the earlier file and no other."""
    size = len(with_checksum(to_bytes(OTHER)))
    with pytest.raises(
        CheckpointWriteError, match=rf"a\.ckpt: .*{reason}.* needs {size} bytes, and \d+ are free"
    ):
        write(path, OTHER)
    assert same(read(path), CONTENT)
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_call_leaves_the_earlier_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A disk that is found full, or broken, at any call."""

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, failing)
    fails_cleanly(path, "No space left on device")


def test_a_limit_within_the_file_leaves_the_earlier_file(path: Path) -> None:
    """The system takes a part of the bytes and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        fails_cleanly(path, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_earlier_file(small_disk: Path) -> None:
    """A real one; when there is space again, the next write succeeds."""
    path = small_disk / "a.ckpt"
    write(path, CONTENT)
    with pytest.raises(
        CheckpointWriteError, match=r"No space left on device; it needs 80\d\d\d bytes, and 6\d+ are"
    ):
        write(path, {"weight": torch.zeros(20_000)})
    assert same(read(path), CONTENT)
    assert list(small_disk.iterdir()) == [path]
    write(path, OTHER)
    assert same(read(path), OTHER)


def test_a_folder_that_cannot_be_is_named(path: Path) -> None:
    """A file in its place, or a folder in the file's."""
    with pytest.raises(CheckpointWriteError, match=r"Not a directory|File exists"):
        write(path / "b.ckpt", CONTENT)
    (path.parent / "c.ckpt").mkdir()
    with pytest.raises(CheckpointWriteError, match="Is a directory"):
        write(path.parent / "c.ckpt", CONTENT)
    assert same(read(path), CONTENT)


def test_an_interrupt_leaves_the_earlier_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle goes on to whoever waits for it, and leaves no half-written file."""

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, OTHER)
    assert same(read(path), CONTENT)
    assert list(path.parent.iterdir()) == [path]


def test_bytes_are_durable_before_the_name_and_the_name_before_the_return(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut needs: sync the file, rename, sync the folder."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append(
            ("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, os.fstat(descriptor).st_size)
        )
        fsync(descriptor)

    def recorded_replace(old: Path, new: Path) -> None:
        calls.append(("replace", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write(path, OTHER)
    size = path.stat().st_size
    partial = calls[0][1]
    assert re.fullmatch(rf"{re.escape(PARTIAL)}[0-9a-f]{{16}}-a\.ckpt", partial)  # nobody can foresee it
    assert calls[:2] == [("fsync", partial, size), ("replace", partial, "a.ckpt")]
    assert [call[:2] for call in calls[2:]] == [("fsync", path.parent.name)]


def test_leftovers_are_removed_by_the_next_write(path: Path) -> None:
    """Those of any checkpoint in the folder, and nobody else's files."""
    mine = {"mine.partial", ".hidden", f"mine{PARTIAL}"}
    for name in (f"{PARTIAL}1-a.ckpt", f"{PARTIAL}2-z.ckpt", *mine):
        (path.parent / name).write_bytes(b"half")
    write(path, OTHER)
    assert {p.name for p in path.parent.iterdir()} == {"a.ckpt", *mine}
