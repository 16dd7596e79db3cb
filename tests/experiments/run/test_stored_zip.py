"""Zip files of numbers: in memory of the file's size, and nothing in them is called."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run.stored_zip import StoredZip, read_tensors


def zipped(method: int, **members: bytes) -> StoredZip:
    """Return a zip file, opened."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return StoredZip(file, len(file.getvalue()))


def saved(value: Any) -> bytes:
    """Return what `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_compressed_member_is_rejected() -> None:
    """Before it is inflated; a stored one is read."""
    assert zipped(zipfile.ZIP_STORED, a=b"12").read("a") == b"12"
    with pytest.raises(ValueError, match="a is compressed, from .* to 100000 bytes"):
        zipped(zipfile.ZIP_DEFLATED, a=bytes(100_000)).read("a")


def test_no_more_is_read_than_the_file_holds() -> None:
    """Names may share bytes: many large members fit into a small file."""
    archive = zipped(zipfile.ZIP_STORED, a=bytes(1000))
    archive.read("a")
    with pytest.raises(ValueError, match="its members are larger than the file"):
        archive.read("a")


class Call:
    """Unpickled, it makes a file in the current folder."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return what `pickle` calls."""
        return Path.touch, (Path("CANARY"),)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": torch.zeros(1).expand(30_000, 30_000)}, "more numbers than are stored"),
        ({1: torch.ones(1)}, "a key that is no text"),
        ({"a": {(1, 2): torch.ones(1)}}, "a key that is no text"),
        ({"a": Call()}, "getattr"),
        (Call(), "getattr"),
    ],
)
def test_anything_but_names_of_stored_tensors_is_rejected(
    value: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `torch.save` can write besides."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, KeyError), match=problem):
        read_tensors(saved(value))
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_read_as_they_were_saved() -> None:
    """With their types and shapes, also views of one storage."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"a": whole, "b": whole.T, "c": torch.tensor(3), "d": torch.ones(2, dtype=torch.float64)}
    read = read_tensors(saved(state))
    assert read.keys() == state.keys()
    assert all(
        torch.equal(read[name], state[name]) and read[name].dtype == state[name].dtype for name in state
    )
