"""Atari games: AtariWrapper is applied automatically, and the error without ale-py says what to install."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from registries import restored_registries

from agents import ALGORITHMS
from envs.atari import WRAPPER
from experiments import command
from experiments.algorithms import PEERS
from experiments.run.run_folder import folder_of_task
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve


@pytest.mark.parametrize("algo", [*ALGORITHMS, *PEERS])
def test_a_game_has_the_section_atari(algo: str) -> None:
    """With the wrapper, which skips the frames instead of the environment."""
    settings = resolve(Arguments(algo=(algo,), env=("ALE/Pong-v5",)))
    assert (settings.policy, settings.frame_stack) == ("CnnPolicy", 4)
    assert settings.env_wrapper == [{WRAPPER: {}}] and settings.env_kwargs == {"frameskip": 1}


def test_what_the_user_sets_wins(tmp_path: Path) -> None:
    """Also in a file that has no section for games."""
    (tmp_path / "own.yaml").write_text("default: {n_timesteps: 10}")
    own = Arguments(env=("PongNoFrameskip-v4",), config=tmp_path / "own.yaml")
    settings = resolve(own)
    assert (settings.policy, settings.env_wrapper) == ("CnnPolicy", [{WRAPPER: {}}])
    assert settings.env_kwargs == {}
    raw = resolve(Arguments(env=("ALE/Pong-v5",), set=(("env_wrapper=[]", "frame_stack=1"),)))
    assert (raw.env_wrapper, raw.frame_stack, raw.env_kwargs) == ([], 1, {})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """With the extra that installs it."""
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with restored_registries():
        assert command.main(["train", "--env", "ALE/Pong-v5"]) == 2
    assert '-e ".[atari]"' in capsys.readouterr().err


def test_the_folder_of_a_game_is_one_folder(tmp_path: Path) -> None:
    """As those of all tasks; a folder of version 0.1 is still used."""
    assert folder_of_task(tmp_path, "ALE/Pong-v5", "sb3:ppo") == tmp_path / "ALE-Pong-v5" / "sb3-ppo"
    (tmp_path / "ALE" / "Pong-v5").mkdir(parents=True)
    assert folder_of_task(tmp_path, "ALE/Pong-v5", "trpo") == tmp_path / "ALE" / "Pong-v5" / "trpo"


@pytest.mark.slow
def test_a_game_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Train, resume, evaluate and export; returns are whole scores of whole games."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    words = ["--env", "ALE/Pong-v5", "--steps", "64", "--n-envs", "2", "--episodes", "1", "--device", "cpu"]
    words += ["--vec-env", "dummy", "--out", str(tmp_path)]
    words += ["--set", "n_steps=16", "policy_kwargs={features_extractor_kwargs: {features_dim: 16}}"]
    with restored_registries():
        assert command.main(["train", *words]) == 0
        assert f"CnnPolicy sees 4 frames of {WRAPPER}" in capsys.readouterr().out
        run = tmp_path / "ALE-Pong-v5" / "trpo" / "seed-0"
        assert command.main(["train", "--resume", str(run), "--steps", "96"]) == 0
        assert command.main(["evaluate", str(run), "--video"]) == 0
        assert command.main(["export", str(run)]) == 0
    result = json.loads((run / "evaluate.json").read_text())
    assert result == json.loads((run / "evaluation.json").read_text())
    assert result["returns"][0] <= -15 and result["lengths"][0] > 2000
    assert yaml.safe_load((run / "config.yaml").read_text())["frame_stack"] == 4
