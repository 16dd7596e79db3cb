"""An exported policy acts as `predict` does."""

import itertools
import logging
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from episodes import Episodes
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import batch_space
from masked_env import MaskedEnv
from run_folders import CONFIG, change_checkpoint, write_checkpoint
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import TRPO, VPG
from agents.policy.distributions import HEADS
from experiments import export
from experiments.export import export_onnx, main
from experiments.options import Export

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
CHOICE = spaces.Discrete(3)
BOX = spaces.Box(np.float32([-0.5, -1.0]), np.float32([0.25, 2.0]))
ACTIONS = {
    "box": BOX,
    "matrix": spaces.Box(-0.3, 0.2, (2, 2), np.float32),
    "discrete": CHOICE,
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}
OBSERVATIONS = {
    "image": spaces.Box(0, 255, (2, 36, 36), np.uint8),
    "float64": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "largest_bounds": spaces.Box(-3.4e38, 3.4e38, (3,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(
        {"z vector": VECTOR, "image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "choice": spaces.Discrete(3)}
    ),
    "dict_of_one": spaces.Dict({"observation": VECTOR}),
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's choice of log level stays inside a test."""
    monkeypatch.setattr(logging.getLogger("torch.onnx"), "level", logging.ERROR)


def make_env(observations: spaces.Space, actions: spaces.Space) -> Episodes:
    """Return an environment that is never stepped."""
    env = Episodes([1.0], action_space=actions)
    env.observation_space = observations
    return env


def make_model(env: object, agent_class: type = TRPO, scale: float = 0.5, **policy_kwargs: object) -> TRPO:
    """Return an agent with weights at random, large enough to leave the action bounds now and then."""
    space = env.observation_space
    image = len(space.shape or ()) == 3
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if image else "MlpPolicy"
    use_sde = policy_kwargs.pop("use_sde", False)
    arguments = {"n_steps": 64, "batch_size": 64, "seed": 0, "device": "cpu", "use_sde": use_sde}
    model = agent_class(policy, env, policy_kwargs=policy_kwargs, **arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def sample(space: spaces.Space, n: int, seed: int = 11) -> object:
    """Return n observations, within what a float32 network can take."""
    batch = batch_space(space, n)
    batch.seed(seed)
    drawn = batch.sample()
    return np.clip(drawn, -5, 5) if isinstance(drawn, np.ndarray) and drawn.dtype.kind == "f" else drawn


def run(path: Path, observations: object) -> np.ndarray:
    """Return the file's actions."""
    session = onnxruntime.InferenceSession(path)
    given = observations if isinstance(observations, dict) else {"observation": observations}
    (actions,) = session.run(["action"], given)
    return actions


def check(path: Path, model: TRPO, normaliser: VecNormalize | None = None) -> None:
    """Compare the file with predict, at batches of 1 and 7."""
    for n in (1, 7):
        raw = sample(model.observation_space, n)
        given = raw if normaliser is None else normaliser.normalize_obs(raw)
        expected, _ = model.predict(given, deterministic=True)
        actions = run(path, raw)
        assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected.reshape(n, -1), axis=0)) > 1, "the actions should depend on observations"


@pytest.mark.parametrize(("observations", "actions"), [*zip(OBSERVATIONS, itertools.cycle(ACTIONS))])
def test_every_space(observations: str, actions: str, tmp_path: Path) -> None:
    """The file takes raw observations in the space's own type, one input for each part.

    It gives predict's actions, of its type and shape, within the bounds.
    """
    model = make_model(make_env(OBSERVATIONS[observations], ACTIONS[actions]), scale=2.0)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)
    given = sample(model.observation_space, 7)
    assert all(ACTIONS[actions].contains(action) for action in run(tmp_path / "policy.onnx", given))


@pytest.mark.slow
@pytest.mark.parametrize("observations", ["vector", "dict"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_policies_have_a_state(cell: str, observations: str, tmp_path: Path) -> None:
    """Fed back, it gives predict's actions over an episode, for several environments."""
    space = VECTOR if observations == "vector" else OBSERVATIONS["dict"]
    name = "MlpLstmPolicy" if observations == "vector" else "MultiInputLstmPolicy"
    options = {"lstm_hidden_size": 8, "n_lstm_layers": 2, "cell": cell, "normalize_observations": True}
    model = TRPO(name, make_env(space, BOX), n_steps=64, policy_kwargs=options, seed=0, device="cpu")
    export_onnx(model, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    given, state = None, np.zeros((2 if cell == "lstm" else 1, 2, 3, 8), np.float32)
    for step in range(4):
        raw = sample(model.observation_space, 3, seed=step)
        expected, given = model.predict(raw, given, np.array([step == 2, False, False]), deterministic=True)
        state[:, :, 0] *= step != 2
        parts = raw if isinstance(raw, dict) else {"observation": raw}
        actions, state = session.run(["action", "next_state"], parts | {"state": state})
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state, np.stack(given), rtol=1e-5, atol=1e-5)
        state = state.copy()


@pytest.mark.slow
def test_models_with_masks(tmp_path: Path) -> None:
    """An agent, and a saved one with and without a normaliser, have the further input."""
    env = VecNormalize(DummyVecEnv([MaskedEnv]))
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu")
    export_onnx(model, tmp_path / "agent.onnx")
    model.save(tmp_path / "model.zip")
    assert main(Export(tmp_path / "model.zip", tmp_path / "plain.onnx", algo="trpo")) == 0
    env.save(str(tmp_path / "vecnormalize.pkl"))
    assert main(Export(tmp_path / "model.zip", tmp_path / "normalised.onnx", algo="trpo")) == 0
    for name in ("agent", "plain", "normalised"):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        assert [each.name for each in session.get_inputs()] == ["observation", "action_masks"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "beta")) for name in HEADS]
)
def test_every_distribution(name: str, tmp_path: Path) -> None:
    """The deterministic action of npg's own, for a box with bounds of its own."""
    model = make_model(make_env(VECTOR, BOX), distribution=name)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)


def test_choices_that_do_not_count_from_zero(tmp_path: Path) -> None:
    """Observations and actions are shifted in the file, too."""
    parts = {"a": spaces.Discrete(4, start=-2), "b": spaces.MultiDiscrete([3, 2], start=[5, -1])}
    actions = spaces.MultiDiscrete([2, 3], start=[-1, 7])
    model = make_model(make_env(spaces.Dict(parts), actions), scale=20.0)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)
    found = run(tmp_path / "policy.onnx", sample(spaces.Dict(parts), 7))
    assert all(actions.contains(action) for action in found)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64])
def test_box_actions_have_the_dtype_of_their_space(dtype: type, tmp_path: Path) -> None:
    """Integers are rounded, within bounds as wide as the dtype, too."""
    whole = np.dtype(dtype).kind != "f"
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if whole else (-1, 1)
    box = spaces.Box(np.array([low, 0]), np.array([high, 1]), dtype=dtype)
    model = make_model(make_env(VECTOR, box), scale=30.0 if whole else 0.5)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)
    assert all(box.contains(action) for action in run(tmp_path / "policy.onnx", sample(VECTOR, 7)))


def test_actions_beyond_the_bounds_of_int64(tmp_path: Path) -> None:
    """As floats, these bounds are rounded to numbers that int64 lacks."""
    whole = np.iinfo(np.int64)
    box = spaces.Box(whole.min, whole.max, (2,), np.int64)
    model = make_model(make_env(VECTOR, box), scale=0.0)
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([1e30, -1e30]))
    export_onnx(model, tmp_path / "policy.onnx")  # which compares it with `predict`
    (action,) = run(tmp_path / "policy.onnx", sample(VECTOR, 1))
    assert action[0] > 0.99 * whole.max and action[1] < 0.99 * whole.min


@pytest.mark.parametrize("squash", [False, True])
def test_gsde(squash: bool, tmp_path: Path) -> None:
    """The noise stays out, and squashed actions are scaled to bounds that are not -1 and 1."""
    env = make_env(VECTOR, spaces.Box(np.float32([-3.0, 0.0]), np.float32([5.0, 0.5])))
    model = make_model(env, use_sde=True, squash_output=squash)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)


def normalised(observations: spaces.Space, **settings: object) -> VecNormalize:
    """Return an environment whose statistics are far from 0 and 1."""
    settings = {"clip_obs": 1.5} | settings
    env = VecNormalize(DummyVecEnv([lambda: make_env(observations, BOX)]), **settings)
    rng = np.random.default_rng(0)
    for moments in env.obs_rms.values() if isinstance(env.obs_rms, dict) else (env.obs_rms,):
        moments.update(rng.normal(3.0, 2.0, (100, *moments.mean.shape)))
    return env


@pytest.mark.parametrize("given", [True, False])
def test_vecnormalize(given: bool, tmp_path: Path) -> None:
    """Statistics and clipping are in the file, by argument or because the model's environment has them."""
    env = normalised(VECTOR)
    model = make_model(env)
    export_onnx(model, tmp_path / "policy.onnx", env if given else None)
    check(tmp_path / "policy.onnx", model, env)


def test_vecnormalize_of_some_keys(tmp_path: Path) -> None:
    """Only the keys that VecNormalize normalises are normalised."""
    env = normalised(OBSERVATIONS["dict"], norm_obs_keys=["z vector"])
    model = make_model(env)
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model, env)


def test_policys_own_normaliser(tmp_path: Path) -> None:
    """A policy that normalises raw observations itself does so in the file."""
    model = make_model(make_env(VECTOR, BOX), normalize_observations=True)
    model.policy.observe(3.0 + 2.0 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0)))
    export_onnx(model, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", model)


def test_model_is_as_before(tmp_path: Path) -> None:
    """An export changes no parameter and can be repeated, and the file names no path of this machine."""
    model = make_model(make_env(VECTOR, BOX)).learn(64)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    contents = []
    for _ in range(2):
        export_onnx(model, tmp_path / "policy.onnx")
        contents.append((tmp_path / "policy.onnx").read_bytes())
    assert all(torch.equal(before[name], value) for name, value in model.policy.state_dict().items())
    assert contents[0] == contents[1]
    assert str(Path(export.__file__).parent).encode() not in contents[0]
    model.learn(64)


def test_disagreement_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that differs from predict is rejected, and an older file stays as it is."""
    forward = export.Predictor.forward
    for space, change in ((BOX, 1e-3), (CHOICE, 1)):
        model = make_model(make_env(VECTOR, space))
        (tmp_path / "policy.onnx").write_bytes(b"old")
        wrong = lambda self, parts, change=change: (forward(self, parts) + change) % 2  # noqa: E731
        monkeypatch.setattr(export.Predictor, "forward", wrong)
        with pytest.raises(RuntimeError, match="disagree"):
            export_onnx(model, tmp_path / "policy.onnx")
        assert (tmp_path / "policy.onnx").read_bytes() == b"old"


def test_ties_are_no_disagreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two equally likely choices the file may take the other one."""
    model = make_model(make_env(VECTOR, spaces.Discrete(2)), scale=0.0)
    forward = export.Predictor.forward
    monkeypatch.setattr(export.Predictor, "forward", lambda self, parts: 1 - forward(self, parts))
    export_onnx(model, tmp_path / "policy.onnx")
    assert (run(tmp_path / "policy.onnx", sample(VECTOR, 7)) == 1).all()


def test_mistakes_of_callers(tmp_path: Path) -> None:
    """A normaliser for other observations and a part called like the output are rejected by name."""
    with pytest.raises(ValueError, match="the normaliser is for"):
        export_onnx(
            make_model(make_env(VECTOR, BOX)), tmp_path / "x.onnx", normalised(OBSERVATIONS["float64"])
        )
    with pytest.raises(ValueError, match="rename that part"):
        export_onnx(make_model(make_env(spaces.Dict({"action": VECTOR}), BOX)), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime, the error says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install -c constraints.txt -e "\.\[onnx\]"'):
        export_onnx(make_model(make_env(VECTOR, BOX)), tmp_path / "x.onnx")


def register(patch: pytest.MonkeyPatch) -> None:
    """Let Gymnasium make the environment of the run."""
    name = "ExportedEpisodes-v0"
    patch.setitem(gym.registry, name, EnvSpec(name, entry_point=lambda: make_env(VECTOR, BOX)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that used VecNormalize, as train.py leaves it."""
    folder = tmp_path_factory.mktemp("finished")
    env = normalised(VECTOR, clip_obs=10.0)
    model = make_model(env, VPG)
    model.save(folder / "model.zip")
    env.save(str(folder / "vecnormalize.pkl"))
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        write_checkpoint(folder, model)
    write_config(folder)
    return folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    register(monkeypatch)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def without_action(content: dict[str, Any]) -> None:
    """Remove the policy's last layer."""
    for name in ("weight", "bias"):
        del content["agent"]["parameters"]["policy"][f"action_net.{name}"]


def other_mean(content: dict[str, Any]) -> None:
    """Give the normaliser a mean of another shape."""
    content["envs"]["normaliser"]["obs_rms"]["mean"] = np.zeros(7)


def write_config(run: Path, **changes: object) -> None:
    """Write config.yaml."""
    config = {"algo": "vpg", "env": "ExportedEpisodes-v0", "policy": "MlpPolicy", "normalize": True}
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG | config | {"hyperparameters": {}} | changes))


def test_command_exports_a_run(
    run_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the run's normaliser; nothing is unpickled; --force replaces an older file."""
    env = normalised(VECTOR, clip_obs=10.0)
    model = VPG.load(run_folder / "model.zip", device="cpu")
    (run_folder / "vecnormalize.pkl").write_bytes(b"junk")
    (run_folder / "model.zip").unlink()
    for name in ("pickle.load", "pickle.loads", "cloudpickle.loads"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("unpickled"))
    (run_folder / "model.onnx").write_bytes(b"old")
    assert main(Export(run_folder)) == 2
    assert "--force" in capsys.readouterr().err
    assert (run_folder / "model.onnx").read_bytes() == b"old"
    assert main(Export(run_folder, force=True)) == 0
    check(run_folder / "model.onnx", model, env)


def test_command_exports_a_model(run_folder: Path, tmp_path: Path) -> None:
    """A saved model elsewhere needs its algorithm and its normaliser by name."""
    (run_folder / "model.zip").rename(tmp_path / "final.zip")
    (run_folder / "vecnormalize.pkl").rename(tmp_path / "statistics.pkl")
    arguments = Export(tmp_path / "final.zip", tmp_path / "out.onnx", tmp_path / "statistics.pkl", "vpg")
    assert main(arguments) == 0
    check(
        tmp_path / "out.onnx",
        VPG.load(tmp_path / "final.zip", device="cpu"),
        normalised(VECTOR, clip_obs=10.0),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: change_checkpoint(run, lambda content: content.pop("log")), "but no run's content"),
        (
            lambda run: change_checkpoint(run, without_action),
            "mapping with action_net.weight, action_net.bias",
        ),
        (lambda run: (run / "config.yaml").unlink(), "expected a run folder"),
        (lambda run: write_config(run, algo="vgp"), "did you mean 'vpg'"),
        (lambda run: write_config(run, env="Absent-v0"), "--import"),
        (lambda run: change_checkpoint(run, lambda content: content.update(envs={})), "does not fit"),
        (
            lambda run: change_checkpoint(run, other_mean),
            "the mean of a normaliser must be numbers of shape",
        ),
    ],
)
def test_command_names_the_mistake_in_a_run(
    change: Callable[[Path], object], message: str, run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """A damaged run ends with exit code 2, one line, and no file."""
    change(run_folder)
    assert main(Export(run_folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (run_folder / "model.onnx").exists()


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_command_names_a_checkpoint_that_is_no_more(
    content: bytes | None, run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """And what can still be done with model.zip; older checkpoints are taken, and said to be."""
    (path,) = (run_folder / "checkpoints").iterdir()
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    assert main(Export(run_folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path.parent} holds no valid checkpoint")
    assert content is None or f"{path.name}: it " in error
    assert "With model.zip alone, if you trust it: TRPO.load('model.zip'), or npg export" in error
    assert f"npg export {run_folder / 'model.zip'} --algo trpo" in error
    assert not (run_folder / "model.onnx").exists()
    if content is not None:
        path.with_name("best.ckpt").write_bytes(whole)
        assert main(Export(run_folder)) == 0
        assert f"rejected: {path} is no valid checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda run: (run / "model.zip").unlink(), {}, "no run folder"),
        (lambda run: (run / "model.zip").write_text("no zip"), {}, "no run folder"),
        (lambda _: None, {"algo": None}, "--algo"),
        (lambda _: None, {"checkpoint": "best"}, "leave --checkpoint out"),
        (lambda _: None, {"algo": "vgp"}, "did you mean 'vpg'"),
        (lambda _: None, {"normaliser": Path("absent.pkl")}, "--normaliser"),
        (lambda run: (run / "vecnormalize.pkl").write_bytes(b"junk"), {}, "cannot read"),
        (lambda run: (run / "vecnormalize.pkl").write_bytes(pickle.dumps({})), {}, "no VecNormalize"),
    ],
)
def test_command_names_the_mistake_in_a_model(
    change: Callable[[Path], object],
    options: dict[str, Any],
    message: str,
    run_folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """A wrong path, option or normaliser ends with exit code 2, one line, and no file."""
    change(run_folder)
    assert main(replace(Export(run_folder / "model.zip", algo="vpg"), **options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (run_folder / "model.onnx").exists()


def test_a_run_takes_no_options_of_a_model(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Its algorithm and its normaliser are its own."""
    assert main(Export(run_folder, algo="vpg")) == 2
    assert "leave them out" in capsys.readouterr().err
