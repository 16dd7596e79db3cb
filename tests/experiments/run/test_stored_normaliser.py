"""VecNormalize's statistics come back from plain arrays as from its own pickle."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from spaces_env import OBSERVATIONS, SpacesEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from experiments.run.stored_model import load_normaliser, save_normaliser


def vec_env() -> VecEnv:
    """Return two environments."""
    return DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)


@pytest.mark.parametrize("space", ["box", "image_last", "dict"])
@pytest.mark.parametrize("norm_obs", [True, False])
def test_normaliser_is_sb3s(space: str, norm_obs: bool, tmp_path: Path) -> None:
    """From file to file, VecNormalize goes on bitwise as from its own pickle, statistics and all."""

    def make() -> VecEnv:
        return DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS[space], spaces.Discrete(3))] * 2)

    keys = ["vector"] if space == "dict" and norm_obs else None
    original = VecNormalize(
        make(), norm_obs=norm_obs, norm_obs_keys=keys, gamma=0.7, clip_obs=1.5, clip_reward=2.5, epsilon=1e-3
    )
    original.seed(0)
    original.reset()
    for _ in range(15):
        original.step(np.array([0, 2]))
    original.save(str(tmp_path / "n.pkl"))
    save_normaliser(original, tmp_path / "n.npz")
    loaded = VecNormalize.load(str(tmp_path / "n.pkl"), make()), load_normaliser(tmp_path / "n.npz", make())
    assert [normaliser.training for normaliser in loaded] == [True, True]
    for training in (True, False):
        trails = []
        for normaliser in loaded:
            normaliser.training = training
            normaliser.seed(1)
            trail = [normaliser.reset()]
            for _ in range(25):
                observations, rewards, _, _ = normaliser.step(np.array([1, 2]))
                trail += [observations, rewards]
            trails.append(trail)
        for theirs, ours in zip(*trails, strict=True):
            if isinstance(theirs, dict):
                assert theirs.keys() == ours.keys()
                for key in theirs:
                    np.testing.assert_array_equal(theirs[key], ours[key], strict=True)
            else:
                np.testing.assert_array_equal(theirs, ours, strict=True)
    assert loaded[1].ret_rms.count == loaded[0].ret_rms.count


def test_normaliser_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while the file is written leaves the old one, and nothing beside it."""
    path = tmp_path / "vecnormalize.npz"
    normaliser = VecNormalize(vec_env())
    save_normaliser(normaliser, path)
    before = path.read_bytes()

    def full_disk(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_normaliser(normaliser, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def spoilt_normaliser(run: Path, **changes: Any) -> Path:
    """Save a normaliser of CartPole-v1 with other arrays in it; None leaves one out."""
    path = run / "vecnormalize.npz"
    save_normaliser(VecNormalize(vec_env()), path)
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_0_mean": np.zeros(3)}, r"mean should be \(4,\) float64 and is \(3,\)"),
        ({"observation_0_var": -np.ones(4)}, "numbers that no var can be"),
        ({"observation_0_mean": np.full(4, np.nan)}, "numbers that no mean can be"),
        ({"return_count": None}, "return_count should be .* and is missing"),
        ({"settings": None}, "is corrupt"),
        ({"settings": np.array('{"gamma": 0.9}')}, "is corrupt"),
    ],
)
def test_bad_normaliser_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Statistics of the wrong shape or impossible values reach no policy."""
    with pytest.raises(ValueError, match=message):
        load_normaliser(spoilt_normaliser(tmp_path, **changes), vec_env())


def test_normaliser_of_an_unfinished_run(tmp_path: Path) -> None:
    """Without either file the run is said to be unfinished."""
    with pytest.raises(FileNotFoundError, match="unfinished"):
        load_normaliser(tmp_path / "vecnormalize.npz", vec_env())


def test_conversion_that_the_error_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command for an old run's vecnormalize.pkl makes a file that loads."""
    VecNormalize(vec_env(), gamma=0.5).save(str(tmp_path / "vecnormalize.pkl"))
    path = tmp_path / "vecnormalize.npz"
    with pytest.raises(FileNotFoundError) as caught:
        load_normaliser(path, vec_env())
    _, code, paths = str(caught.value).split('"')
    monkeypatch.setattr("sys.argv", ["-c", *paths.split()])
    exec(code)
    assert load_normaliser(path, vec_env()).gamma == 0.5
