"""YAML is read as data, or refused by name."""

from pathlib import Path

import pytest

from experiments.run.plain_yaml import MOST_ALIASES, parse, read

BOMB = "a: &a [x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_a_mapping_is_read(tmp_path: Path) -> None:
    """Nested, in UTF-8, with the few aliases that YAML itself writes."""
    path = tmp_path / "config.yaml"
    path.write_text("name: Ærø\nlayers: &layers [64, 64]\nagain: {vf: *layers}\n", encoding="utf-8")
    assert read(path) == {"name": "Ærø", "layers": [64, 64], "again": {"vf": [64, 64]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not plain YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not plain YAML .*os.getcwd"),
        ("[" * 5000, "is not plain YAML"),
        (b"\xff\x00", "is not plain YAML .*decode"),
        (BOMB, "it has 80 aliases"),
        ("- npg", "must map names to settings, got list"),
        ("", "must map names to settings, got NoneType"),
    ],
)
def test_anything_else_is_refused_by_name(content: str | bytes, message: str) -> None:
    """Of a bomb of aliases nothing unfolds."""
    assert MOST_ALIASES < 80
    with pytest.raises(ValueError, match=f"config.yaml {message}" if "alias" not in message else message):
        parse(content, "config.yaml")
