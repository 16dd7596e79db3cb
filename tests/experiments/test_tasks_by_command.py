"""Tasks with arguments, stacked images and Dict observations, from the command line to an ONNX file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from registries import restored_registries
from spaces_env import SpacesEnv

from experiments import command

SHORT = ["--n-envs", "2", "--episodes", "2", "--device", "cpu", "--vec-env", "dummy"]
SHORT += ["--set", "n_steps=32", "n_critic_updates=1"]
NO_NORMALISER = "policy_kwargs={features_extractor_kwargs: {features_dim: 16}}"
TASKS: dict[str, tuple[list[str], list[str]]] = {
    "LunarLander-v3": (["--env-kwargs", "continuous=true", "wind_power=5.0", "enable_wind=true"], []),
    "Catch-v0": ([], ["frame_stack=4", NO_NORMALISER]),
    "Parts-v0": ([], ["policy=MultiInputPolicy", "frame_stack=2"]),
    "CartPoleHiddenVelocity-v0": ([], ["policy_kwargs={lstm_hidden_size: 8}"]),
}


class Parts(SpacesEnv):
    """Gives numbers and an image, and draws pictures."""

    def __init__(self, render_mode: str | None = None):
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        parts = {"image": image, "numbers": spaces.Box(-1.0, 1.0, (3,), np.float32)}
        super().__init__(spaces.Dict(parts), spaces.Discrete(3))
        self.render_mode, self.metadata = render_mode, {"render_modes": ["rgb_array"]}

    def render(self) -> Any:
        """Return a frame."""
        return np.zeros((16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with restored_registries():
        gym.register("Parts-v0", Parts)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_train_resume_evaluate_record_export(task: str, tmp_path: Path) -> None:
    """With the same settings in every step; results of the evaluation are those of training."""
    for package in ("imageio_ffmpeg", "onnxruntime", *(["Box2D"] if task.startswith("Lunar") else [])):
        pytest.importorskip(package)
    options, settings = TASKS[task]
    words = ["--env", task, "--steps", "128", "--out", str(tmp_path), *options, *SHORT, *settings]
    assert command.main(["train", *words]) == 0
    run = tmp_path / task / "trpo" / "seed-0"
    assert command.main(["train", "--resume", str(run), "--steps", "256"]) == 0
    assert command.main(["evaluate", str(run), "--video"]) == 0
    assert command.main(["export", str(run)]) == 0
    assert (run / "video.mp4").stat().st_size > 500 and (run / "model.onnx").exists()
    results = [json.loads((run / name).read_text()) for name in ("evaluation.json", "evaluate.json")]
    assert results[0] == results[1] and results[0]["steps"] == 256
    config = yaml.safe_load((run / "config.yaml").read_text())
    if options:
        assert config["env_kwargs"] == {"continuous": True, "wind_power": 5.0, "enable_wind": True}
    else:
        assert config.get("frame_stack") == {"Catch-v0": 4, "Parts-v0": 2}.get(task)
