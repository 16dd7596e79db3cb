"""The page "Your own environment": its five commands work from an empty folder with its file.

Here they are short and in this process; the slow tests of `test_site.py` run the page as written.
"""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from registries import restored_registries
from test_site import COMMAND, DOCS, FILE

from experiments import command, grid_command
from experiments.grid import Cell

SHORT = ["--steps", "64", "--episodes", "2", "--device", "cpu", "--vec-env", "dummy"]
SHORT += ["--set", "n_steps=8", "n_envs=2", "n_critic_updates=1"]
PAGE = (DOCS / "tutorial" / "environment.md").read_text(encoding="utf-8")


def run_here(cells: list[Cell], _: int) -> dict[str, str]:
    """Make the runs of a grid in this process, by the command lines that start them."""
    for cell in cells:
        assert command.main(cell.command[cell.command.index("train") :]) == 0
    return {}


def test_five_commands_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Check, train with arguments and a wrapper, evaluate, record a video, compare with three seeds."""
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(grid_command, "run_grid", run_here)
    monkeypatch.setattr(grid_command, "write_report", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (file,) = [found for found in FILE.finditer(PAGE) if found["verb"] == "Save this as"]
    Path(file["name"]).write_text(file["code"])
    lines = [shlex.split(found[1]) for found in COMMAND.finditer(PAGE)][:5]
    assert [words[1] for words in lines] == ["check-env", "train", "evaluate", "evaluate", "train"]
    try:
        with restored_registries():
            for _, *words in lines:
                assert command.main([*words, *(SHORT if words[0] == "train" else [])]) == 0
    finally:
        sys.modules.pop("grid", None)
    assert "no errors" in capsys.readouterr().out
    runs = sorted(path.parent for path in tmp_path.rglob("config.yaml"))
    assert len(runs) == 7 and (tmp_path / runs[-1].relative_to(tmp_path) / "evaluation.json").exists()
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["env_kwargs"] == {"size": 7} and config["env_wrapper"] == [{"grid.Closer": {}}]
    (first,) = [run for run in runs if run.is_relative_to(tmp_path / "runs")]
    results = [json.loads((first / name).read_text()) for name in ("evaluation.json", "evaluate.json")]
    assert results[0] == results[1] and os.path.getsize(first / "video.mp4") > 1000
