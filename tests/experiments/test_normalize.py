"""``normalize: true`` on observations that VecNormalize should not or cannot normalise (case R21)."""

from pathlib import Path

import numpy as np
import pytest
from generated_envs import AnyEnv
from gymnasium import spaces

from envs import make_vec_env
from experiments import command
from experiments.normalised import normalised
from experiments.settings.arguments import Arguments
from experiments.train import main

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (BOX, (True, None)),
        (IMAGE, (False, None)),
        (spaces.Discrete(3), (False, None)),
        (spaces.Dict({"a": BOX, "b": IMAGE, "c": spaces.Discrete(2)}), (True, ["a"])),
        (spaces.Dict({"b": IMAGE}), (False, None)),
    ],
)
def test_quantities_are_normalised(space: spaces.Space, expected: tuple) -> None:
    """Images and choices are not; rewards are."""
    env = normalised(make_vec_env(lambda: AnyEnv(observation_space=space)), 0.9)
    assert (env.norm_obs, env.norm_obs_keys) == expected
    assert env.norm_reward and env.gamma == 0.9
    env.reset()


@pytest.mark.slow
def test_a_run_on_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Trains, resumes, and evaluates to the same numbers."""
    settings = ("normalize=true", "n_steps=32", "n_envs=2", "n_critic_updates=1")
    arguments = Arguments(
        env=("Catch-v0",), out=tmp_path, steps=64, episodes=2, device="cpu", set=(settings,)
    )
    assert main(arguments) == 0
    assert "normalize: not of images and choices" in capsys.readouterr().out
    folder = tmp_path / "Catch-v0" / "trpo" / "seed-0"
    assert main(Arguments(resume=folder, steps=128)) == 0
    assert command.main(["evaluate", str(folder), "--import", "envs"]) == 0
