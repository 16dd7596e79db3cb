"""An environment with action masks, by command: train, resume, evaluate, export, share, check."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from imported_modules import imported_module

import agents
from experiments import command
from experiments.run.checkpoints import Checkpoints
from experiments.run.plain_data import to_bytes as encode

MODULE = """
import gymnasium
import numpy as np
from masked_env import MaskedEnv
from stable_baselines3.common.callbacks import BaseCallback

class Picture(MaskedEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, allowed=0.4, render_mode=None):
        super().__init__(allowed=allowed)
        self.render_mode = render_mode

    def render(self):
        return np.full((8, 8, 3), self.step_count, np.uint8)

class Named(gymnasium.Wrapper):
    def which(self, env=None):  # sb3-contrib's wrapper passes the environment
        return self.env.unwrapped.mask

gymnasium.register("Masked-v0", "user_masks:Picture")
"""
ENV = ["--env", "user_masks:Masked-v0"]
SHORT = ["--device", "cpu", "--vec-env", "dummy", "--episodes", "3", "--set", "n_steps=16", "n_envs=2"]
SHORT += ["policy_kwargs={net_arch: [8]}", "n_critic_updates=1"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with the module."""
    with imported_module(tmp_path_factory.mktemp("user"), "user_masks", MODULE) as folder:
        yield folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A finished run; its environment would have complained of a forbidden action."""
    assert command.main(["train", *ENV, "--steps", "64", "--eval-every", "1", *SHORT]) == 0
    return folder / "runs" / "user_masks-Masked-v0" / "trpo" / "seed-0"


def state_of(run: Path) -> dict[str, Any]:
    """Return the policy's parameters and the environments' state."""
    content = Checkpoints(run / "checkpoints").newest_valid()[1]
    return {"policy": content["agent"]["parameters"]["policy"], "envs": content["envs"]}


def returns_of(path: Path) -> list[float]:
    """Return the returns of an evaluation."""
    return json.loads(path.read_text())["returns"]


def test_training_says_that_it_uses_masks(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Once, with the way to ignore them, which is a setting like others."""
    assert command.main(["train", *ENV, "--steps", "32", "--seed", "1", *SHORT]) == 0
    assert capsys.readouterr().out.count("--set use_masking=false ignores the masks") == 1
    ignoring = ["train", *ENV, "--steps", "32", "--seed", "2", "--episodes", "1", *SHORT, "use_masking=false"]
    assert command.main(ignoring) == 1
    shown = capsys.readouterr()
    assert "action masks" not in shown.out and "is forbidden" in shown.err


@pytest.mark.slow
def test_the_geometry_of_a_masked_policy(tmp_path: Path) -> None:
    """The Fisher matrix is that of the stored masks."""
    words = ["train", *ENV, "--steps", "32", "--geometry", "1", "--out", str(tmp_path), *SHORT]
    assert command.main(words) == 0
    (log,) = tmp_path.rglob("progress.csv")
    assert "geometry/" in log.read_text().splitlines()[0]


@pytest.mark.parametrize("vec_env", ["dummy", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_run_is_resumed_bit_for_bit(trained: Path, tmp_path: Path, vec_env: str) -> None:
    """The masks are those of the restored environments."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert command.main(["train", "--resume", str(run), "--import", "user_masks", "--steps", "96"]) == 0
    words = [*SHORT]
    words[words.index("dummy")] = vec_env
    straight = ["train", *ENV, "--steps", "96", "--eval-every", "1", "--out", str(tmp_path / "s"), *words]
    assert command.main(straight) == 0
    (other,) = (path.parent for path in (tmp_path / "s").rglob("config.yaml"))
    if vec_env == "dummy":
        assert encode(state_of(run)) == encode(state_of(other))
    assert returns_of(run / "evaluation.json") == returns_of(other / "evaluation.json")


@pytest.mark.slow
def test_evaluation_and_video_use_the_masks(trained: Path) -> None:
    """The same episodes as after training, with the most likely and with sampled actions."""
    pytest.importorskip("imageio_ffmpeg")
    words = ["evaluate", str(trained), "--import", "user_masks", "--video"]
    assert command.main(words) == 0
    assert returns_of(trained / "evaluation.json") == returns_of(trained / "evaluate.json")
    assert (trained / "video.mp4").stat().st_size
    assert command.main([*words[:-1], "--stochastic", "--out", str(trained / "sampled.json")]) == 0


@pytest.mark.slow
def test_an_exported_policy_takes_masks(trained: Path, tmp_path: Path) -> None:
    """As one more input, with `predict`'s actions."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "model.onnx"
    assert command.main(["export", str(trained), "--import", "user_masks", "--out", str(out)]) == 0
    session = runtime.InferenceSession(out)
    assert {each.name for each in session.get_inputs()} == {"observation", "action_masks"}
    observations = np.random.default_rng(0).random((40, 5), dtype=np.float32)
    masks = np.random.default_rng(1).random((40, 5)) < 0.3
    masks[:, 4] = True
    (actions,) = session.run(None, {"observation": observations, "action_masks": masks})
    assert masks[np.arange(40), actions].all() and len(set(actions.tolist())) > 1


@pytest.mark.slow
def test_a_shared_policy_takes_masks(trained: Path, tmp_path: Path) -> None:
    """And is evaluated with them; its card says so."""
    pytest.importorskip("safetensors")
    out = tmp_path / "shared"
    assert command.main(["share", str(trained), "--import", "user_masks", "--to", str(out)]) == 0
    policy = agents.load(out)
    for seed in range(20):
        mask = np.arange(5) == seed % 5
        action, _ = policy.predict(np.zeros(5, np.float32), action_masks=mask)
        assert action == seed % 5
    assert "action_masks=" in (out / "README.md").read_text()


@pytest.mark.slow
def test_wrappers_may_give_the_masks(tmp_path: Path) -> None:
    """`ActionMasker` of this project, with a method's name, and of sb3-contrib."""
    pytest.importorskip("sb3_contrib")
    for module in ("envs", "sb3_contrib.common.wrappers"):
        wrapper = f"{{{module}.ActionMasker: {{action_mask_fn: which}}}}"
        words = [
            "--env-wrapper",
            "user_masks.Named",
            wrapper,
            "--import",
            module,
            "--out",
            str(tmp_path / module),
        ]
        assert command.main(["train", *ENV, "--steps", "32", *words, *SHORT]) == 0
        (config,) = (tmp_path / module).rglob("config.yaml")
        assert yaml.safe_load(config.read_text())["env_wrapper"][1] == {
            f"{module}.ActionMasker": {"action_mask_fn": "which"}
        }


def test_check_env_plays_allowed_actions(capsys: pytest.CaptureFixture) -> None:
    """SB3's checker and the random steps, which take none that the environment forbids."""
    assert command.main(["check-env", "user_masks:Masked-v0", "--steps", "200"]) == 0
    assert "no errors" in capsys.readouterr().out


def test_a_wrong_mask_ends_a_run_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """One sentence with the environment and the step."""
    module = sys.modules["user_masks"]
    original = module.Picture.action_masks
    monkeypatch.setattr(
        module.Picture,
        "action_masks",
        lambda self: np.zeros(5, bool) if self.step_count == 4 else original(self),
    )
    words = ["train", *ENV, "--steps", "64", "--out", str(tmp_path), *SHORT]
    assert command.main(words) == 1
    shown = capsys.readouterr().err
    assert "Masked-v0 (environment 0 of 2) at step 8: the mask allows no action" in shown
    assert "Traceback" not in shown
    assert command.main(["check-env", "user_masks:Masked-v0", "--steps", "200"]) == 2
    assert "the mask allows no action" in capsys.readouterr().err
