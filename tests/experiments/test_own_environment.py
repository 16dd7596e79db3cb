"""An environment of the user's own with arguments and wrappers: every command makes it with them."""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from registries import restored_registries
from stable_baselines3.common.vec_env import VecCheckNan

import agents
from experiments import command
from experiments.run.checkpoints import Checkpoints
from experiments.run.plain_data import to_bytes as encode
from experiments.settings.arguments import Arguments
from experiments.settings.run_settings import UNUSED

MODULE = '''
import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

MADE = []

class Line(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, size=4, *, slip=0.0, render_mode=None):
        self.size, self.slip, self.render_mode = size, slip, render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 100.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        MADE.append((size, slip))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(self.size))
        return np.float32([self.place]), {}

    def step(self, action):
        if self.np_random.random() >= self.slip:
            self.place = max(self.place + 2 * int(action) - 1, 0)
        return np.float32([self.place]), 1.0 * self.size, self.place >= self.size, False, {}

    def render(self):
        return np.full((8, 8, 3), self.place, np.uint8)

    def get_state(self):
        return self.place

    def set_state(self, state):
        self.place = state

class Tired(gymnasium.Wrapper):
    """Scales rewards; every third observation is shifted, so that its state matters."""

    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor, self.steps = factor, 0
        MADE.append(factor)

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        self.steps += 1
        return observation + np.float32(self.steps % 3 == 0), self.factor * reward, *rest

    def get_state(self):
        return self.steps

    def set_state(self, state):
        self.steps = state

class Count(BaseCallback):
    def __init__(self, ends=10**9):
        super().__init__()
        self.ends, self.rollouts = ends, 0

    def _on_step(self):
        return self.num_timesteps < self.ends

    def _on_rollout_end(self):
        self.rollouts += 1
        self.logger.record("user/rollouts", self.rollouts)

gymnasium.register("Line-v0", "user_line:Line", max_episode_steps=30)
'''
SHORT = ["--device", "cpu", "--vec-env", "dummy", "--episodes", "2", "--set", "n_steps=16", "n_envs=2"]
SHORT += ["n_critic_updates=1", "policy_kwargs={net_arch: [8]}"]
ENV = ["--env", "user_line:Line-v0"]
GIVEN = ["--env-kwargs", "size=7", "slip=1e-1", "--env-wrapper", "{user_line.Tired: {factor: 3}}", "--set"]
GIVEN += ["frame_stack=2", "callback=user_line.Count", "monitor_kwargs={info_keywords: []}"]
GIVEN += ["vec_env_wrapper=stable_baselines3.common.vec_env.VecCheckNan"]
STORED = {
    "env_kwargs": {"size": 7, "slip": 0.1},
    "env_wrapper": [{"user_line.Tired": {"factor": 3}}],
    "vec_env_wrapper": [{"stable_baselines3.common.vec_env.VecCheckNan": {}}],
    "frame_stack": 2,
    "monitor_kwargs": {"info_keywords": []},
    "callback": [{"user_line.Count": {}}],
}
MADE = {(7, 0.1), 3}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with the module."""
    folder, before, path = tmp_path_factory.mktemp("user"), Path.cwd(), list(sys.path)
    (folder / "user_line.py").write_text(MODULE)
    os.chdir(folder)
    sys.path.append(str(folder))
    with restored_registries():
        importlib.import_module("user_line")
        yield folder
    os.chdir(before)
    sys.path[:] = path
    sys.modules.pop("user_line", None)


@pytest.fixture(scope="module")
def training(folder: Path) -> tuple[Path, set[object]]:
    """A finished run, and the arguments of the environments and wrappers that it made."""
    made()
    assert command.main(["train", *ENV, "--steps", "64", *SHORT, *GIVEN]) == 0
    return folder / "runs" / "user_line-Line-v0" / "trpo" / "seed-0", made()


@pytest.fixture(scope="module")
def trained(training: tuple[Path, set[object]]) -> Path:
    """The folder of the run."""
    return training[0]


def made() -> set[object]:
    """Return the arguments of the environments and wrappers that were made since the last call."""
    found = set(sys.modules["user_line"].MADE)
    sys.modules["user_line"].MADE.clear()
    return found


def config_of(run: Path) -> dict[str, Any]:
    """Return what config.yaml stores of the environment."""
    document = yaml.safe_load((run / "config.yaml").read_text())
    return {name: document[name] for name in UNUSED if name in document}


def rollouts_of(run: Path) -> list[str]:
    """Return what the callback has logged."""
    with (run / "progress.csv").open() as file:
        return [row["user/rollouts"] for row in csv.DictReader(file) if row["user/rollouts"]]


def parameters_of(run: Path) -> dict[str, Any]:
    """Return the policy's parameters and the environments' state."""
    content = Checkpoints(run / "checkpoints").newest_valid()[1]
    return {"policy": content["agent"]["parameters"]["policy"], "envs": content["envs"]}


def test_training_and_its_evaluation_have_the_arguments(training: tuple[Path, set[object]]) -> None:
    """config.yaml stores them as they were meant; returns are the environment's own, without the wrapper."""
    trained, made_in_training = training
    assert config_of(trained) == STORED and made_in_training == MADE
    assert json.loads((trained / "evaluation.json").read_text())["returns"][0] % 7 == 0
    assert rollouts_of(trained) == ["1", "2"]
    assert "Tired" in str(parameters_of(trained)["envs"])  # in training, too


@pytest.mark.parametrize(
    "name",
    [
        "evaluate",
        "video",
        "resume",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("export", "tune")),
    ],
)
def test_later_commands_have_the_arguments(trained: Path, tmp_path: Path, name: str) -> None:
    """From config.yaml, or for a search from the same options."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    words = {
        "evaluate": ["evaluate", str(run), "--import", "user_line"],
        "video": ["evaluate", str(run), "--import", "user_line", "--video"],
        "export": ["export", str(run), "--import", "user_line"],
        "resume": ["train", "--resume", str(run), "--import", "user_line", "--steps", "96"],
        "tune": ["tune", "1", *ENV, "--steps", "320", "--out", str(tmp_path)],
    }[name]
    for package in {"export": ("onnxruntime",), "video": ("imageio_ffmpeg",), "tune": ("optuna",)}.get(
        name, ()
    ):
        pytest.importorskip(package)
    made()
    assert command.main([*words, *SHORT, *GIVEN, "--jobs", "1"] if name == "tune" else words) == 0
    assert made() == MADE
    if name == "evaluate":
        results = [json.loads((run / f"{each}.json").read_text()) for each in ("evaluation", "evaluate")]
        assert results[0] == results[1]
    if name == "tune":
        (best,) = tmp_path.rglob("best.yaml")
        (section,) = yaml.safe_load(best.read_text()).values()
        assert {name: section[name] for name in UNUSED} == STORED
    if name == "resume":  # bit for bit, with the wrapper's state and the callback's counter
        straight = ["train", *ENV, "--steps", "96", "--out", str(tmp_path / "straight"), *SHORT, *GIVEN]
        assert command.main(straight) == 0
        (other,) = (path.parent for path in (tmp_path / "straight").rglob("config.yaml"))
        assert encode(parameters_of(run)) == encode(parameters_of(other))
        assert (run / "evaluation.json").read_text() == (other / "evaluation.json").read_text()
        assert rollouts_of(run) == rollouts_of(other) == ["1", "2", "3"]


def mistake(self: object, *_: Any, **__: Any) -> Any:
    """Fail, as a method of a user's class may."""
    raise KeyError("a mistake")


IN_TIRED = "of user_line.Tired around environment 0, <Line<Line-v0>>"
IN_CHECK = "stable_baselines3.common.vec_env.vec_check_nan.VecCheckNan"


@pytest.mark.parametrize(
    ("method", "replacement", "message"),
    [
        ("user_line.Tired.reset", mistake, f"KeyError: 'a mistake'; raised by reset() {IN_TIRED}"),
        ("user_line.Tired.step", mistake, f"KeyError: 'a mistake'; raised by step() {IN_TIRED} at step 1 of"),
        (
            "user_line.Tired.step",
            lambda *_: (1, 2),
            f"error: step() {IN_TIRED} at step 1 of its episode: it re",
        ),
        (
            "user_line.Tired.step",
            lambda *_: (np.zeros(3, np.float32), 1.0, False, False, {}),
            "the observation has shape (3,), its space (1,); return the space's shape",
        ),
        (f"{IN_CHECK}.step_wait", mistake, f"KeyError: 'a mistake'; raised by mistake() of {IN_CHECK}"),
    ],
)
def test_an_error_of_a_wrapper_in_an_evaluation_names_it(
    trained: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    replacement: Any,
    message: str,
) -> None:
    """With the traceback only if it leads to code of the user's own."""
    monkeypatch.setattr(method, replacement)
    assert command.main(["evaluate", str(trained), "--import", "user_line", "--out", "failed.json"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert ("Traceback (most recent call last)" in error) is (replacement is mistake)


def test_an_error_of_sb3s_own_wrapper_is_a_sentence(
    trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments are in the settings, and its traceback leads to no code of the user's own."""
    monkeypatch.setattr("user_line.Line.step", lambda *_: (np.float32([np.nan]), 1.0, False, False, {}))
    monkeypatch.setattr(VecCheckNan.__init__, "__defaults__", (True, True, True))  # raise_exception first
    assert command.main(["evaluate", str(trained), "--import", "user_line", "--out", "failed.json"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and "error: in the evaluation, ValueError: found nan" in error
    assert f"() of {IN_CHECK}" in error


def test_an_error_while_a_class_is_made_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback is made last."""
    monkeypatch.setattr("user_line.Count.__init__", mistake)
    assert command.main(["train", *ENV, *SHORT, *GIVEN, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "KeyError: 'a mistake'" in error and "in mistake() of user_line.Count" in error


def test_an_argument_that_a_class_rejects_is_a_sentence(
    trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the place; the exit code is that of wrong settings."""

    def __init__(self: object, *_: Any, **__: Any) -> None:  # noqa: N807
        raise ValueError("factor must be positive")

    monkeypatch.setattr("user_line.Tired.__init__", __init__)
    assert command.main(["evaluate", str(trained), "--import", "user_line", "--out", "failed.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: factor must be positive; raised at ") and "Traceback" not in error
    assert "in __init__() of user_line.Tired" in error


def test_an_error_of_a_state_is_no_misfit_of_the_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the class, as for every other error."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.setattr("user_line.Tired.set_state", mistake)
    assert command.main(["train", "--resume", str(run), "--import", "user_line", "--steps", "96"]) == 2
    error = capsys.readouterr().err
    assert (
        "the environments cannot be restored (KeyError: 'a mistake'; raised by mistake() of user_line."
        in error
    )


@pytest.fixture(scope="module")
def shared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a shared folder, without its pictures."""
    out = tmp_path_factory.mktemp("others") / "shared"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("record", "draw_curve"):
            patch.setattr(f"experiments.share.{name}", lambda *args: args[-1].write_bytes(b"picture"))
        assert command.main(["share", str(trained), "--to", str(out), "--import", "user_line"]) == 0
    return out


def test_a_shared_folder_has_the_arguments(
    trained: Path, shared: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It plays the run's episodes if the user names the module; its card names it, too."""
    made()
    capsys.readouterr()
    monkeypatch.setattr("envs.user_modules._NAMED", set())  # as in a fresh process
    for words in (["evaluate", str(shared)], ["share", str(trained), "--to", str(shared / "again")]):
        assert command.main(words) == 2
        assert "--import user_line" in capsys.readouterr().err and not made()
    assert command.main(["evaluate", str(shared), "--import", "user_line"]) == 0 and made() == MADE
    results = [
        json.loads(path.read_text()) for path in (shared / "evaluate.json", trained / "evaluation.json")
    ]
    assert results[0] == results[1]
    card = (shared / "README.md").read_text()
    assert "npg evaluate shared --import user_line" in card and "the last 2 raw observations" in card
    assert agents.load(shared).observation_space.shape == (2,)


FRESH = """
import pickle, sys
import torch
from experiments import command
def forbidden(*args, **kwargs):
    raise AssertionError("something is unpickled")
pickle.load = pickle.loads = torch.load = torch.serialization._load = forbidden
sys.exit(command.main(["evaluate", sys.argv[1], "--import", "user_line", "--out", "again.json"]))
"""


@pytest.mark.slow
def test_a_fresh_process_evaluates_it_without_pickle(folder: Path, shared: Path, tmp_path: Path) -> None:
    """All that it needs is the module, in the current folder."""
    shutil.copy(folder / "user_line.py", tmp_path)
    env = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1])}
    words = [sys.executable, "-c", FRESH, str(shared)]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = [json.loads(path.read_text()) for path in (shared / "evaluation.json", tmp_path / "again.json")]
    assert written[0] == written[1]


def test_arguments_in_a_section_are_changed_one_by_one(folder: Path) -> None:
    """As policy_kwargs are: --env-kwargs over --set over the file."""
    section = "Line-v0: {n_timesteps: 32, env_kwargs: {size: 1e1, slip: 1e-1, max_episode_steps: 5}}"
    (folder / "own.yaml").write_text(section.replace("Line-v0", "user_line:Line-v0"))
    words = [
        "--config",
        "own.yaml",
        "--seed",
        "2",
        "--env-kwargs",
        "slip=0.2",
        *SHORT,
        "env_kwargs={size: 3}",
    ]
    assert command.main(["train", "--env", "user_line:Line-v0", *words]) == 0
    config = folder / "runs" / "user_line-Line-v0" / "trpo" / "seed-2" / "config.yaml"
    expected = {"size": 3, "slip": 0.2, "max_episode_steps": 5}
    assert yaml.safe_load(config.read_text())["env_kwargs"] == expected
    assert set(made()) >= {(3, 0.2)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-kwargs", "siz=7"], "takes no argument 'siz' (env_kwargs); did you mean 'size'?"),
        (["--env-kwargs", "size"], "expected name=value after --env-kwargs, got 'size'"),
        (["--env-kwargs", "size=[3"], "cannot read the value '[3' after --env-kwargs"),
        (["--set", "env_kwargs=[1]"], "env_kwargs must map names to values"),
        (["--set", "env_kwargs={1: 2}"], "env_kwargs must map names to values"),
        (
            ["--vec-env", "tensor", "--env", "CartPole-v1", "--env-kwargs", "device=cpu"],
            "use the option --device",
        ),
        (
            ["--vec-env", "tensor", "--env", "CartPole-v1", "--env-kwargs", "dtype=float64"],
            "CartPole-v1 takes no argument 'dtype' (env_kwargs)",
        ),
    ],
)
def test_mistakes_cost_no_training(
    words: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """The message names the argument."""
    assert command.main(["train", "--env", "user_line:Line-v0", *words, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_tensor_tasks_take_the_arguments_of_gymnasiums(tmp_path: Path) -> None:
    """A tensor task and the evaluation's environment have the same ones."""
    words = ["--vec-env", "tensor", "--env-kwargs", "max_episode_steps=7", "--steps", "64"]
    assert command.main(["train", *SHORT, *words, "--out", str(tmp_path)]) == 0
    (run,) = (path.parent for path in tmp_path.rglob("evaluation.json"))
    assert json.loads((run / "evaluation.json").read_text())["max_length"] == 7


def test_the_words_of_a_grids_runs_keep_the_arguments() -> None:
    """A grid starts its runs by command lines."""
    given = Arguments(
        env_kwargs=(("size=7", "slip=1e-1"), ("name=a b",)), env_wrapper=("a.B", "{c.D: {e: 1}}")
    )
    assert Arguments.parse(given.words()) == given


@pytest.mark.parametrize("name", ["evaluate", "export", "resume"])
@pytest.mark.parametrize("setting", ["env_wrapper", "vec_env_wrapper", "callback"])
def test_names_in_a_run_folder_import_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, setting: str
) -> None:
    """Nor is a class found that is imported by chance: the user must name its module."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    document = yaml.safe_load((run / "config.yaml").read_text())
    if (setting, name) == ("callback", "export"):
        pytest.skip("callbacks are of training, as with evaluate")
    document |= {each: [] for each in ("env_wrapper", "vec_env_wrapper", "callback")}
    (run / "config.yaml").write_text(
        yaml.safe_dump(document | {setting: "stable_baselines3.common.monitor.Monitor"})
    )
    words = {"resume": ["train", "--resume", str(run), "--steps", "96", "--allow-changes"]}
    code = command.main([*words.get(name, [name, str(run)]), "--import", "user_line"])
    if setting == "callback" and name != "resume":  # of training only
        assert code == 0
    else:
        assert code == 2 and "add --import stable_baselines3.common.monitor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("env_wrapper", "Tired", "lacks its module; write module.Class"),
        ("env_wrapper", "[[1]]", 'env_wrapper must be "module.Class"'),
        ("env_wrapper", "{user_line.Tired: 3}", 'env_wrapper must be "module.Class"'),
        ("env_wrapper", "user_line.Tire", "did you mean 'Tired'?"),
        ("env_wrapper", "user_line.Count", "is no class derived from gymnasium.core.Wrapper"),
        ("env_wrapper", "{user_line.Tired: {facto: 3}}", "unexpected keyword argument 'facto'"),
        ("env_wrapper", "gymnasium.wrappers.RecordVideo", "--video records one"),
        ("vec_env_wrapper", "stable_baselines3.common.vec_env.VecNormalize", "use normalize: true"),
        ("vec_env_wrapper", "user_line.Tired", "is no class derived from"),
        ("callback", "a_module_that_is_missing.X", "a_module_that_is_missing"),
        ("frame_stack", "0", "frame_stack must be an integer from 1"),
        ("monitor_kwargs", "{filename: x}", "monitor_kwargs may have info_keywords"),
    ],
)
def test_wrong_classes_cost_no_training(
    setting: str, value: str, message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """The message names the setting."""
    words = ["--out", str(tmp_path), "--vec-env", "dummy", "--set", "n_envs=1", f"{setting}={value}"]
    assert command.main(["train", *ENV, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vec_env", "setting"), [("tensor", "frame_stack=2"), ("envpool", "env_wrapper=user_line.Tired")]
)
def test_environments_that_are_not_single_take_no_wrappers(
    vec_env: str, setting: str, capsys: pytest.CaptureFixture
) -> None:
    """They run in C++ or as tensors."""
    assert command.main(["train", "--vec-env", vec_env, "--set", setting]) == 2
    assert f"--vec-env {vec_env} take no {setting.partition('=')[0]}" in capsys.readouterr().err
