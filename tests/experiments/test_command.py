"""The command `npg`: what it dispatches to, what --help imports, what an installation contains."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout

from agents import TRPO
from experiments import command, train
from experiments.command import main
from experiments.settings.arguments import Arguments, Grouped
from experiments.settings.config_file import config_file

ROOT = Path(__file__).parents[2]
OLD_RUN = ROOT / "tests" / "data" / "cartpole-trpo-0.1"  # made by the code of version 0.1


def python(*words: str, cwd: Path = ROOT, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with packages from a path."""
    environ = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environ)


@pytest.mark.parametrize(
    "words", [["--help"], *([name, "--help"] for name in command.COMMANDS)], ids=lambda words: words[0]
)
def test_help_imports_no_large_library(words: list[str]) -> None:
    """It appears at once."""
    program = f"""
import sys
from experiments.command import main
try:
    code = main({words!r})
except SystemExit as end:
    code = end.code
assert not code
assert {{"torch", "stable_baselines3", "plotly", "matplotlib", "optuna"}}.isdisjoint(sys.modules)
"""
    ended = python("-c", program)
    assert ended.returncode == 0, ended.stderr
    assert ("--checkpoint-every" if words[0] in ("train", "tune") else "npg") in ended.stdout


def test_every_option_has_a_group_and_a_sentence(capsys: pytest.CaptureFixture) -> None:
    """The groups hold each option of the flat arguments once."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for name in Arguments.__dataclass_fields__:
        assert f"--{name.strip('_').replace('_', '-')} " in shown.replace(",", " ")
    for name in Grouped.__dataclass_fields__:
        assert f"{name} options" in shown


def test_the_version(capsys: pytest.CaptureFixture) -> None:
    """Of the installed package, without importing torch."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("npg-toolkit 0.")


@pytest.mark.parametrize("word", ["tarin", "--algo"])
def test_an_unknown_command_is_named(word: str, capsys: pytest.CaptureFixture) -> None:
    """With the nearest one, or all."""
    assert main([word]) == 2
    assert ("did you mean 'train'" if word == "tarin" else "train, evaluate") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train CartPole-v1",
            "error: 'CartPole-v1' belongs to no option; for an environment, write --env CartPole-v1",
        ),
        ("train --timesteps 1e5", "error: there is no option --timesteps; did you mean --steps? a setting"),
        (
            "train --gamma=0.9",
            "error: there is no option --gamma; a setting of the algorithm is given as --set gamma=0.9;",
        ),
        ("train --cg-damping 0.1", "is given as --set cg_damping=0.1; npg train --help lists all options"),
        ("train --steps many", "expected a number, e.g. 1000 or 1e3, got 'many'"),
        ("train --jobs 1.5", "expected a whole number, e.g. 1000 or 1e3, got '1.5'"),
        ("tune ten", "Error parsing --tune: expected a whole number"),
        ("evaluate run --episodes inf", "expected a whole number, e.g. 1000 or 1e3, got 'inf'"),
    ],
)
def test_wrong_options_are_explained(line: str, message: str, capsys: pytest.CaptureFixture) -> None:
    """In words of the command line, not of Python."""
    with pytest.raises(SystemExit) as ended:
        command.main(line.split())
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error and "typing" not in error


def test_set_needs_names_and_values(capsys: pytest.CaptureFixture) -> None:
    """A space in the place of "=" is a usual mistake."""
    assert command.main(["train", "--set", "target_kl", "0.1"]) == 2
    assert "expected name=value after --set, got 'target_kl'" in capsys.readouterr().err


def test_help_is_a_command(capsys: pytest.CaptureFixture) -> None:
    """By itself, and before the name of another one."""
    assert command.main(["help"]) == 0
    assert "npg check-env" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["help", "evaluate"])
    assert "--episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "trials"), [(["20", "--algo", "npg"], 20), (["--algo", "npg"], command.TRIALS)]
)
def test_tune_is_train_with_tune(words: list[str], trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of trials may be left out."""
    given: list[Arguments] = []
    monkeypatch.setattr(train, "main", lambda arguments: given.append(arguments) or 0)
    assert main(["tune", *words]) == 0
    assert given == [Arguments(algo=("npg",), tune=trials)]


@pytest.mark.parametrize("name", ["evaluate", "report", "export", "zoo"])
def test_modules_of_version_0_1_say_where_they_went(name: str, capsys: pytest.CaptureFixture) -> None:
    """One line and exit code 2, as a command; an ImportError, as a module."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"agents.{name}", run_name="__main__")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert f"experiments.{name}" in error and f"npg {name}" in error
    with pytest.raises(ImportError, match=f"is now experiments.{name}"):
        __import__(f"agents.{name}")
    with pytest.raises(ImportError, match=r"is now experiments\.geometry"):
        __import__("agents.geometry")


def test_a_run_of_version_0_1_is_loaded_evaluated_and_resumed(tmp_path: Path) -> None:
    """Its model, which names `agents.policies`, its config.yaml, its logs and its checkpoint."""
    folder = Path(shutil.copytree(OLD_RUN, tmp_path / "seed-3"))
    assert TRPO.load(folder / "model.zip").num_timesteps == 512
    assert main(["evaluate", str(folder), "--episodes", "2"]) == 0
    assert main(["train", "--resume", str(folder), "--steps", "768", "--allow-changes"]) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["n_timesteps"] == 768
    assert TRPO.load(folder / "model.zip").num_timesteps == 768


@pytest.mark.covering(2)
@pytest.mark.parametrize(
    ("name", "statement"),
    [
        *((name, "import experiments") for name in ("envs", "agents", "npg")),
        *(
            ("npg", f"{start} import {end}")
            for start, end in (("", "agents.critic"), ("from agents", "TRPO"))
        ),
    ],
)
@pytest.mark.parametrize("kind", ["a package", "a folder", "a module"])
def test_a_package_that_shadows_ours_is_named(name: str, statement: str, kind: str, tmp_path: Path) -> None:
    """Which one, where, and what to do, before anything else fails."""
    place = tmp_path / (f"{name}.py" if kind == "a module" else name)
    if kind == "a module":
        place.touch()
    else:
        place.mkdir()
        if kind == "a package":
            (place / "__init__.py").touch()
    ended = python("-c", statement.strip(), cwd=tmp_path)
    if kind == "a folder":  # a package without __init__.py comes after every other one on the path
        assert ended.returncode == 0
    else:
        assert ended.returncode == 1
        assert (
            f"{place.resolve()} shadows the package '{name}'" in ended.stderr and "rename it" in ended.stderr
        )


def test_own_configs_and_envs_beside_a_script(tmp_path: Path) -> None:
    """A user's own configs/ is not read, and his envs/ does not keep him from our agents."""
    for name in ("configs", "envs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    program = "from agents import TRPO; TRPO('MlpPolicy', 'CartPole-v1', device='cpu')"
    ended = python("-c", program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert config_file("trpo.yaml") == ROOT / "configs" / "trpo.yaml"


@pytest.mark.slow
def test_a_wheel_works_elsewhere(tmp_path: Path) -> None:
    """It has our four packages with configs/ inside, and trains outside of the checkout."""
    source, target = tmp_path / "source", tmp_path / "target"
    copy_checkout(source)
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    assert python(*pip).returncode == 0
    names = {path.name for path in target.iterdir() if path.suffix != ".dist-info"} - {"bin"}
    assert names == {"npg", "agents", "envs", "experiments"}
    assert {path.name for path in (target / "experiments" / "configs").glob("*.yaml")} == {
        path.name for path in (ROOT / "configs").glob("*.yaml")
    }
    words = [
        "train",
        "--env",
        "CartPole-v1",
        "--steps",
        "2000",
        "--episodes",
        "2",
        "--out",
        str(tmp_path / "runs"),
    ]
    ended = python("-P", "-m", "experiments.command", *words, cwd=tmp_path, path=str(target))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs" / "CartPole-v1" / "trpo" / "seed-0" / "evaluation.json").exists()
