"""The command line: one whole run, and every mistake a user can make."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from episodes import Episodes
from free_costs import WITHOUT_COSTS
from stable_baselines3.common.callbacks import BaseCallback

from agents import ALGORITHMS, TRPO, NonFiniteError
from experiments import command, grid_command
from experiments.evaluation import seeded_episodes
from experiments.run import learn
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.settings.config_file import config_file
from experiments.settings.configuration import build, resolve
from experiments.train import main
from experiments.training_envs import make_env

NO_NORMALISERS = "policy_kwargs={normalize_observations: false, normalize_returns: false}"
SHORT = {"steps": 512, "episodes": 2, "set": (("n_steps=32", "n_critic_updates=1", "batch_size=64"),)}


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    """A run that takes a second."""
    return Arguments(out=tmp_path / "runs", device="cpu", **SHORT)


def changed(arguments: Arguments, **changes: object) -> Arguments:
    """Return the arguments with other values."""
    return Arguments(**{**vars(arguments), **changes})


@pytest.mark.parametrize(
    ("algo", "env", "settings"),
    [("trpo", "CartPole-v1", ()), ("sb3:a2c", "Pendulum-v1", ("normalize=true",))],
)
def test_evaluate_reproduces_the_evaluation_at_the_end(
    arguments: Arguments, algo: str, env: str, settings: tuple[str, ...]
) -> None:
    """evaluation.json is what `npg evaluate RUN` writes, all of it."""
    given = (("n_steps=32",), settings) if settings else SHORT["set"]
    assert main(changed(arguments, algo=(algo,), env=(env,), seed=3, episodes=5, set=given)) == 0
    folder = arguments.out / env / algo.replace(":", "-") / "seed-3"
    assert command.main(["evaluate", str(folder)]) == 0
    written = json.loads((folder / "evaluation.json").read_text())
    assert json.loads((folder / "evaluate.json").read_text()) == written
    assert written["seed"] == 10_003 and len(written["returns"]) == 5 and written["steps"] == 512


@pytest.mark.parametrize("algo", WITHOUT_COSTS)
def test_run_leaves_what_the_contract_says(
    arguments: Arguments, algo: str, capsys: pytest.CaptureFixture
) -> None:
    """The folder has config, CSV, events, checkpoints, model and evaluation; the summary prints its path."""
    assert main(changed(arguments, algo=(algo,))) == 0
    folder = arguments.out / "CartPole-v1" / algo / "seed-0"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "progress.csv", "checkpoints", "model.zip", "evaluation.json"} <= names
    assert any(name.startswith("events.") for name in names)
    assert any((folder / "checkpoints").iterdir())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["algo"] == algo and config["n_timesteps"] == 512
    assert config["hyperparameters"]["n_steps"] == 32
    assert {"python", "torch", "gymnasium"} <= set(config["versions"])
    assert pd.read_csv(folder / "progress.csv")["time/total_timesteps"].iloc[-1] == 512
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["returns"]) == 2 and evaluation["steps"] == 512
    printed = capsys.readouterr().out
    assert f"next     npg evaluate {folder} --video" in printed
    assert str(folder) in printed and "tensorboard --logdir" in printed and "steps/s" in printed
    agent = ALGORITHMS[algo].load(folder / "model.zip", device="cpu")
    assert agent.num_timesteps == 512
    path, content = RunFolder(folder).read_checkpoint()  # which `npg evaluate` reads
    assert path.name == "checkpoint-000000512.ckpt"
    model, newest = agent.policy.state_dict(), content["agent"]["parameters"]["policy"]
    assert model.keys() == newest.keys() and all(torch.equal(model[name], newest[name]) for name in model)


def test_same_seed_same_run(arguments: Arguments, tmp_path: Path) -> None:
    """Two runs with one seed log the same numbers, times aside."""
    logs = []
    for name in ("a", "b"):
        main(changed(arguments, out=tmp_path / name))
        log = pd.read_csv(tmp_path / name / "CartPole-v1" / "trpo" / "seed-0" / "progress.csv")
        logs.append(log.drop(columns=["time/fps", "time/time_elapsed", "time/seconds"]).sort_index(axis=1))
    pd.testing.assert_frame_equal(*logs)


def test_normalised_run_keeps_its_statistics(arguments: Arguments) -> None:
    """With normalize=true the statistics are next to the model."""
    settings = (*arguments.set, ("normalize=true", NO_NORMALISERS))
    assert main(changed(arguments, env=("Pendulum-v1",), set=settings)) == 0
    assert (arguments.out / "Pendulum-v1" / "trpo" / "seed-0" / "vecnormalize.pkl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": ("trop",)}, "unknown algorithm 'trop'; did you mean 'trpo'"),
        ({"algo": ("TRPO",)}, "unknown algorithm 'TRPO'; did you mean 'trpo'"),
        ({"env": ("CartPole-v9",)}, "CartPole-v1"),
        ({"env": ("no_module_x:A-v0",)}, "run the command in the folder of no_module_x, install it"),
        ({"env": ("my.module.Task",)}, "write module:Name-v0, e.g. 'my.module:Task-v0'"),
        ({"env": ("Hopper-v2",)}, "or use 'Hopper-v5'"),
        ({"env": ("Cartpol-v1",)}, "CartPole-v1"),
        ({"set": (("targetkl=0.1",),)}, "no setting 'targetkl'; did you mean 'target_kl'"),
        ({"set": (("target_kl=0",),)}, "target_kl must be a number of nats > 0, or a schedule, got 0"),
        ({"set": (("target_kl",),)}, "expected name=value after --set, got 'target_kl'"),
        ({"set": (("cg_damping=-1",),)}, "cg_damping must be a number ≥ 0, got -1"),
        ({"set": (("n_steps=1", "n_envs=1"),)}, "n_steps * n_envs must be at least 2"),
        ({"set": (("policy=MlpPolice",),)}, "unknown policy 'MlpPolice'; did you mean 'MlpPolicy'"),
        ({"set": (("policy_kwargs={foo: 1}",),)}, "foo"),
        (
            {"set": (("policy_kwargs={net_arch: [1000000000000000000]}",),)},
            "this command line describes a run that cannot be built",
        ),
        ({"set": (("policy_kwargs={net_arch: [-1]}",),)}, "policy_kwargs must be a mapping such as"),
        ({"set": (("target_kl=true",),)}, "target_kl must be a number of nats > 0, or a schedule, got True"),
        ({"set": (("policy_kwargs={activation_fn: relu}",),)}, "has no 'relu'; use a name such as 'ReLU'"),
        ({"set": (("normalize=true",),)}, "are both on"),
        ({"set": (("normalize_advantage=maybe",),)}, "normalize_advantage must be true or false"),
        ({"set": (("stats_window_size=-1",),)}, "stats_window_size must be an integer ≥ 1"),
        ({"set": (("seed=3",),)}, "use the option --seed"),
        ({"out": Path("/proc/nope")}, "/proc/nope"),
        ({"steps": 0}, "n_timesteps must be an integer ≥ 1, got 0"),
        ({"n_envs": 0}, "n_envs must be an integer from 1 to 65536, got 0"),
        ({"vec_env": "dumy"}, "dummy"),
        ({"seed": -1}, "seed must be an integer ≥ 0, got -1"),
        ({"seeds": 0}, "--seeds ≥ 1"),
        ({"algo": ("npg", "npg")}, "different names after --algo, got npg npg"),
        ({"algo": ("npg", "vpg"), "set": (("target_kl=0.1",),)}, "VPG has no setting 'target_kl'"),
        ({"set": (("npg.target_kl=0.1",),)}, "--set npg.target_kl=0.1 is for npg, and --algo has trpo"),
        ({"algo": ("sb3:ppo",), "set": (("learning_rate=lin_x",),)}, "lin_0.001, got 'lin_x'"),
        ({"geometry": -1}, "geometry must be an integer ≥ 0, got -1"),
        ({"device": "gpu0"}, "cpu, cuda or auto, got 'gpu0'"),
        ({"config": Path("nowhere.yaml")}, "nowhere.yaml"),
    ],
)
def test_mistakes_cost_no_training(
    arguments: Arguments, changes: dict, message: str, capsys: pytest.CaptureFixture
) -> None:
    """One clear error, exit code 2, and no folder left behind."""
    assert main(changed(arguments, **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not arguments.out.exists()


def test_unsupported_observations_are_named(arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """An environment whose observations no policy serves is one clear error too."""
    assert main(changed(arguments, env=("Blackjack-v1",))) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "words", [["--set", "a=1", "b=2"], ["--set", "a=1", "--set", "b=2"], ["--set", "a=1", "--seed", "3"]]
)
def test_set_may_be_repeated(words: list[str]) -> None:
    """Neither form loses a setting."""
    arguments = Arguments.parse(words)
    given = [text for group in arguments.set for text in group]
    assert given == (["a=1"] if "--seed" in words else ["a=1", "b=2"])
    assert arguments.seed == (3 if "--seed" in words else 0)


def test_one_option_of_the_policy_leaves_the_others(arguments: Arguments) -> None:
    """policy_kwargs on the command line changes what it names; the section's normalisers stay."""
    assert (
        main(changed(arguments, set=(*arguments.set, ("policy_kwargs={net_arch: [8]}", "n_steps=1e2")))) == 0
    )
    folder = arguments.out / "CartPole-v1" / "trpo" / "seed-0"
    found = yaml.safe_load((folder / "config.yaml").read_text())["hyperparameters"]
    assert found["policy_kwargs"] == {
        "net_arch": [8],
        "normalize_observations": True,
        "normalize_returns": True,
    }
    assert found["n_steps"] == 100


def test_a_run_without_evaluation_is_finished_too(
    arguments: Arguments, capsys: pytest.CaptureFixture
) -> None:
    """--episodes 0 leaves a finished run, which is not moved aside."""
    assert main(changed(arguments, episodes=0)) == 0
    assert main(changed(arguments, episodes=0)) == 2
    assert "already holds a finished run" in capsys.readouterr().err


def test_unsupported_space_is_named(arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """An environment whose actions no policy serves is rejected before training."""

    class TupleActions(Episodes):
        def __init__(self) -> None:
            super().__init__([1.0])
            self.action_space = gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(2)])

    gym.register("TupleActions-v0", TupleActions)
    try:
        assert main(changed(arguments, env=("TupleActions-v0",))) == 2
    finally:
        del gym.registry["TupleActions-v0"]
    error = capsys.readouterr().err
    assert "Tuple" in error and "Discrete" in error and "Box" in error


def test_finished_run_is_not_overwritten(arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """A second run into the same folder is rejected, and changes nothing."""
    assert main(arguments) == 0
    model = arguments.out / "CartPole-v1" / "trpo" / "seed-0" / "model.zip"
    before = model.read_bytes()
    assert main(arguments) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert model.read_bytes() == before


def stop_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second update raise."""
    update = TRPO.train

    def raising(self: TRPO) -> None:
        if self._n_updates:
            raise error
        update(self)

    monkeypatch.setattr(TRPO, "train", raising)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint(
    arguments: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    number: int,
    code: int,
) -> None:
    """It ends after the update; the last line resumes it, with the same result as if it never stopped."""
    whole = changed(arguments, out=arguments.out / "whole")
    assert main(whole) == 0
    update = TRPO.train

    def signalled(self: TRPO) -> None:
        if self._n_updates == 0:
            os.kill(os.getpid(), number)
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(TRPO, "train", signalled)
        assert main(arguments) == code
    folder = arguments.out / "CartPole-v1" / "trpo" / "seed-0"
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"  resume   python train.py --resume {folder}"
    assert TRPO.load(folder / "model.zip")._n_updates == 1
    assert not (folder / "evaluation.json").exists()
    assert main(Arguments(resume=folder)) == 0
    ended, expected = (out / "CartPole-v1" / "trpo" / "seed-0" for out in (arguments.out, whole.out))
    assert (ended / "evaluation.json").read_text() == (expected / "evaluation.json").read_text()
    times = ["time/fps", "time/time_elapsed", "time/seconds"]
    logs = [pd.read_csv(path / "progress.csv").drop(columns=times) for path in (ended, expected)]
    pd.testing.assert_frame_equal(*(log.sort_index(axis=1) for log in logs))


def test_an_unfinished_run_in_the_way_is_moved_aside(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting it again, without --resume, loses nothing of the first."""
    with monkeypatch.context() as patch:
        stop_with(NonFiniteError("bad"), patch)
        assert main(arguments) == 1
    assert main(arguments) == 0
    folder = arguments.out / "CartPole-v1" / "trpo" / "seed-0"
    assert (folder.parent / "seed-0.unfinished-1" / "model.zip").exists()


def test_bad_number_saves_the_model(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A NaN from the environment ends the run with its own words, and the model up to there."""
    stop_with(NonFiniteError("Broken-v0 met a NaN."), monkeypatch)
    assert main(arguments) == 1
    assert "Broken-v0 met a NaN." in capsys.readouterr().err
    assert TRPO.load(arguments.out / "CartPole-v1" / "trpo" / "seed-0" / "model.zip")._n_updates == 1


def test_unexpected_error_saves_the_model_and_is_shown(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A bug keeps its traceback, but costs no model; the exit code is that of a run that has begun."""
    stop_with(RuntimeError("a bug"), monkeypatch)
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and "in raising" in printed and "RuntimeError: a bug" in printed
    assert (arguments.out / "CartPole-v1" / "trpo" / "seed-0" / "model.zip").exists()


def test_geometry_is_logged_when_asked_for(arguments: Arguments) -> None:
    """--geometry 2 fills the geometry columns in every other row; without it there are none."""
    columns = {}
    for seed, every in enumerate((0, 2)):
        main(changed(arguments, seed=seed, geometry=every, episodes=0, n_envs=4))
        log = pd.read_csv(arguments.out / "CartPole-v1" / "trpo" / f"seed-{seed}" / "progress.csv")
        columns[every] = log.filter(like="npg/geometry/")
    assert columns[0].empty
    looked = columns[2]["npg/geometry/effective_dimension"].notna().tolist()
    assert looked == [True, False, True, False, False]  # four rollouts, and the last update's own row


def test_progress_is_counted_in_steps(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is full at the end, and never beyond."""
    bars = []
    make = learn.Progress

    def spy(*args: object) -> BaseCallback:
        bars.append(make(*args))
        return bars[-1]

    monkeypatch.setattr(learn, "Progress", spy)
    main(changed(arguments, steps=500))
    assert bars[0]._bar.n == bars[0]._bar.total == 500


def test_a_grid_makes_every_run_and_keeps_finished_ones(
    arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All get the same steps, settings with an owner reach it alone; a repeat makes nothing again."""
    settings = (("npg.target_kl=0.5", "npg.n_steps=32", "sb3:a2c.n_steps=16"),)
    grid = changed(arguments, algo=("npg", "sb3:a2c"), set=settings, jobs=2)
    assert main(grid) == 0
    found = {}
    for name in ("npg", "sb3-a2c"):
        folder = arguments.out / "CartPole-v1" / name / "seed-0"
        found[name] = yaml.safe_load((folder / "config.yaml").read_text())
        assert found[name]["n_timesteps"] == 512
        assert len(json.loads((folder / "evaluation.json").read_text())["returns"]) == 2
        assert not folder.with_name("seed-0.log").exists()
    assert found["npg"]["target_kl_joint"] == 0.5 and "target_kl_joint" not in found["sb3-a2c"]
    assert found["sb3-a2c"]["algo"] == "sb3:a2c" and found["sb3-a2c"]["hyperparameters"]["n_steps"] == 16
    models = [path.stat().st_mtime_ns for path in arguments.out.rglob("model.zip")]
    capsys.readouterr()
    monkeypatch.setattr(grid_command, "write_report", lambda *_: None)  # takes seconds
    assert main(grid) == 0
    assert "2 of 2 runs are finished already" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in arguments.out.rglob("model.zip")] == models


def test_a_grid_without_a_finished_episode_has_no_report(
    arguments: Arguments, capsys: pytest.CaptureFixture
) -> None:
    """Its runs are finished, and so is the grid: exit code 0; the report alone has nothing to show."""
    pytest.importorskip("jinja2")
    short = changed(arguments, env=("Pendulum-v1",), steps=64, set=(("n_steps=32", "n_envs=1"),))
    for seed in range(2):
        assert main(changed(short, seed=seed, vec_env="dummy")) == 0
    capsys.readouterr()
    assert main(changed(short, seeds=2, vec_env="dummy")) == 0
    error = capsys.readouterr().err
    assert "\nno report: there is nothing to show of these runs yet:\n" in error and "error" not in error
    assert error.count("too short: no episode ended in the training; train for more steps") == 2
    assert command.main(["report", str(short.out)]) == 2
    assert capsys.readouterr().err.startswith("error: there is nothing to show of these runs yet:\n")


def test_algorithms_of_a_grid_get_one_budget(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where configurations differ, all get the most of any: VPG has 1e5 steps for CartPole-v1, NPG 6e4."""
    asked = []
    monkeypatch.setattr(grid_command, "run_grid", lambda cells, jobs: asked.extend(cells) or {})
    monkeypatch.setattr(grid_command, "print_grid", lambda *_: None)
    main(changed(arguments, algo=("npg", "vpg"), steps=None, set=()))
    assert [cell.n_timesteps for cell in asked] == [100_000, 100_000]
    assert all(cell.command[cell.command.index("--steps") + 1] == "100000" for cell in asked)


def test_a_missing_extra_of_the_report_is_said_before_the_runs(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So that there is time to install it while they train."""
    before = []
    monkeypatch.setattr(grid_command, "run_grid", lambda *_: before.append(capsys.readouterr().out) or {})
    monkeypatch.setattr(grid_command, "print_grid", lambda *_: None)
    for modules in (("no_such_module", "yaml"), ("yaml",)):
        monkeypatch.setattr(grid_command, "REPORT_MODULES", modules)
        assert main(changed(arguments, seeds=2)) == 0
    expected = (
        "no report, which needs no_such_module; install what is missing with: pip install -c constraints"
    )
    assert expected in before[0] and "no report" not in before[1]


def test_a_command_line_says_what_the_arguments_do(arguments: Arguments) -> None:
    """The runs of a grid are started by command lines; none loses a setting."""
    given = changed(arguments, algo=("npg", "contrib:trpo"), set=(("a=1", "b=2"), ("c=[1, 2]",)), geometry=3)
    assert Arguments.parse(given.words()) == given


def test_contrib_trpos_joint_bound_is_in_the_config(arguments: Arguments) -> None:
    """sb3-contrib's KL is a mean over d action dimensions: its 0.01 is 0.03 on Hopper's three."""
    pytest.importorskip("mujoco")
    short = changed(arguments, algo=("contrib:trpo",), env=("Hopper-v5",), set=(("n_steps=16",),), episodes=0)
    assert main(short) == 0
    config = yaml.safe_load(
        (arguments.out / "Hopper-v5" / "contrib-trpo" / "seed-0" / "config.yaml").read_text()
    )
    assert config["hyperparameters"]["target_kl"] == 0.01
    assert config["target_kl_joint"] == pytest.approx(0.03)


@pytest.mark.parametrize("algo", ["sb3:ppo", "sb3:a2c", "contrib:trpo"])
def test_every_section_of_a_peer_builds(arguments: Arguments, algo: str) -> None:
    """Names and values of a peer's configuration are those its constructor takes."""
    path = config_file(f"{algo.replace(':', '-')}.yaml")
    for env_id in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0"):
        single = arguments.single(algo, env_id, 0)
        settings = replace(resolve(replace(single, set=(), steps=None)), vec_env="dummy")
        build(settings, make_env(settings))
    assert set(yaml.safe_load(path.read_text())) >= {"default", "CartPole-v1"}


def test_a_grid_with_one_job_resumes_what_is_unfinished(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It chose its vec_env itself, like the run that it resumes."""
    with monkeypatch.context() as patch:
        stop_with(NonFiniteError("bad"), patch)
        assert main(arguments) == 1
    command = grid_command.continued(changed(arguments, steps=512.0)).command()
    assert command[-2:] == ["--resume", str(arguments.out / "CartPole-v1" / "trpo" / "seed-0")]
    assert grid_command.continued(changed(arguments, vec_env="subproc")).resume is None


@pytest.mark.parametrize("path", [".", "seed-0", "trpo/seed-0"])
def test_a_run_is_resumed_by_any_path(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Relative ones may be short."""
    assert main(arguments) == 0
    folder = arguments.out / "CartPole-v1" / "trpo" / "seed-0"
    monkeypatch.chdir(folder if path == "." else folder.parent if path == "seed-0" else folder.parent.parent)
    assert main(Arguments(resume=Path(path), steps=600)) == 0
    assert json.loads((folder / "evaluation.json").read_text())["steps"] >= 600


@pytest.mark.parametrize(
    ("algo", "options"),
    [pytest.param("sb3:a2c", ("n_steps=16",), marks=pytest.mark.slow), ("trpo", ("n_steps=32",))],
)
def test_a_run_with_looks_is_resumed_with_others(
    arguments: Arguments, algo: str, options: tuple[str, ...]
) -> None:
    """A figure that waits to be logged is not kept, and a setting is no counter."""
    first = changed(arguments, algo=(algo,), geometry=1, set=(options,), n_envs=8)
    assert main(first) == 0
    folder = arguments.out / "CartPole-v1" / algo.replace(":", "-") / "seed-0"
    assert main(Arguments(resume=folder, steps=1024)) == 0
    config = folder / "config.yaml"
    for geometry in (2, 0):  # another interval, and none
        config.write_text(re.sub("geometry: .", f"geometry: {geometry}", config.read_text()))
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        steps = 2048 + 1024 * (geometry == 0)
        assert main(Arguments(resume=folder, steps=steps)) == 2
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
        assert main(Arguments(resume=folder, steps=steps, allow_changes=True)) == 0


class Unmeasured(gym.Env):
    """Pays NaN from the seed of the evaluation on."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Remember the seed."""
        super().reset(seed=seed)
        self.seed = seed or getattr(self, "seed", 0)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """End at once."""
        return np.zeros(1, np.float32), np.nan if self.seed >= 10_000 else 1.0, True, False, {}


def test_an_evaluation_with_nan_finishes_no_run(
    arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN is never written, and the error says where it came from."""
    gym.register("Unmeasured-v0", Unmeasured)
    try:
        assert main(changed(arguments, env=("Unmeasured-v0",))) == 1
    finally:
        del gym.registry["Unmeasured-v0"]
    folder = arguments.out / "Unmeasured-v0" / "trpo" / "seed-0"
    assert (folder / "model.zip").exists() and not (folder / "evaluation.json").exists()
    assert "in its evaluation" in capsys.readouterr().err


def test_a_grid_takes_no_other_run_for_finished(
    arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with other settings would stand beside the new ones; the grid that a run suggests has its steps."""
    assert main(arguments) == 0
    assert " trpo vpg --steps 512 --seeds 5 " in capsys.readouterr().out
    asked = []
    monkeypatch.setattr(grid_command, "run_grid", lambda cells, jobs: asked.extend(cells) or {})
    grid = changed(arguments, algo=("trpo", "vpg"), vec_env="workers", checkpoint_every=3)
    assert main(grid) == 0
    assert len(asked) == 2
    for changes, message in (
        ({"steps": 600}, "n_timesteps: 512 -> 600"),
        ({"episodes": 3}, "evaluation_episodes: 2 -> 3"),
        ({"set": ((*SHORT["set"][0], "trpo.target_kl=0.5"),)}, "hyperparameters.target_kl: 0.01 -> 0.5"),
    ):
        assert main(changed(grid, **changes)) == 2
        assert message in capsys.readouterr().err


def test_a_run_is_not_resumed_to_fewer_steps(
    arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has more than that already."""
    with monkeypatch.context() as patch:
        stop_with(NonFiniteError("bad"), patch)
        assert main(changed(arguments, checkpoint_every=1)) == 1
    folder = arguments.out / "CartPole-v1" / "trpo" / "seed-0"
    assert main(Arguments(resume=folder, steps=100)) == 2
    assert "give --steps a larger number" in capsys.readouterr().err
    assert main(Arguments(resume=folder)) == 0


def test_an_environment_of_a_module_runs_to_its_end(arguments: Arguments) -> None:
    """The summary knows its name."""
    assert main(changed(arguments, env=("gymnasium.envs:CartPole-v1",))) == 0


def test_an_evaluation_that_does_not_end_is_ended(
    arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task without a time limit may never end under a policy; the run says so, and is not finished."""
    monkeypatch.setattr(seeded_episodes, "LONGEST", 5)
    assert main(arguments) == 1
    assert "has lasted 5 steps" in capsys.readouterr().err
    assert not (arguments.out / "CartPole-v1" / "trpo" / "seed-0" / "evaluation.json").exists()


def test_the_next_grid_gives_settings_to_their_algorithm(
    arguments: Arguments, capsys: pytest.CaptureFixture
) -> None:
    """The command that a run suggests is valid for both algorithms."""
    assert main(changed(arguments, algo=("trpo",), set=(*arguments.set, ("target_kl=0.02",)))) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "--algo trpo vpg" in last and "trpo.target_kl=0.02" in last
    grid = Arguments.parse(last.split()[2:])
    for algo in grid.algo:
        resolve(grid.single(algo, "CartPole-v1", 0))


def test_a_bad_value_in_a_grid_is_rejected_before_any_run(
    arguments: Arguments, capsys: pytest.CaptureFixture
) -> None:
    """Once, whichever algorithm it is for."""
    bad = changed(arguments, algo=("npg", "trpo"), set=(("trpo.gamma=7",),), seeds=2, jobs=1)
    assert main(bad) == 2
    assert capsys.readouterr().err == "error: gamma must be a number in [0, 1], got 7\n"
    assert not arguments.out.exists()


def test_a_missing_setting_of_ppo_is_explained(arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """Rather than answered by other names."""
    assert main(changed(arguments, set=(("vf_coef=0.5",),))) == 2
    assert "has no setting 'vf_coef'; the critic is fitted by itself" in capsys.readouterr().err
