"""RL Zoo: what we hand to it, and, where it is installed, that it takes it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from free_costs import WITHOUT_COSTS

from agents import ALGORITHMS
from agents.hyperparameters import defaults_of
from experiments.settings.config_file import config_file
from experiments.tuning.spaces import searched_settings
from experiments.zoo import main, parse_options

ROOT = Path(__file__).parents[2]

# Not importorskip: an import of RL Zoo patches Gymnasium's TimeLimit, for every test that follows.
needs_zoo = pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="needs the zoo extra")


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for RL Zoo, whose train and enjoy note the command line that they see."""
    package, search = ModuleType("rl_zoo3"), ModuleType("rl_zoo3.hyperparams_opt")
    package.ALGOS, package.seen = {"ppo": None, "trpo": None}, []
    search.HYPERPARAMS_SAMPLER, search.HYPERPARAMS_CONVERTER = {}, {}
    modules = {"rl_zoo3": package, "rl_zoo3.hyperparams_opt": search}
    for verb in ("train", "enjoy"):
        module = modules[f"rl_zoo3.{verb}"] = ModuleType(f"rl_zoo3.{verb}")
        setattr(module, verb, lambda: package.seen.append(sys.argv))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "argv", sys.argv)
    package.search = search
    return package


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--algo", "npg"], ["-conf", str(config_file("npg.yaml")), "--num-threads", "1"]),
        (
            ["train", "--env", "A-v0", "--algo=vpg"],
            ["-conf", str(config_file("vpg.yaml")), "--num-threads", "1"],
        ),
        (
            ["train", "--algo", "trpo", "-conf", "my.yml"],
            ["-conf", str(config_file("trpo.yaml")), "--num-threads", "1"],
        ),
        (["enjoy", "--algo", "npg", "--no-render"], ["-f", "logs", "--num-threads", "1"]),
        (["train", "--algo", "ppo"], []),
        (["train", "-optimize"], []),
    ],
)
def test_our_defaults_come_before_the_users_arguments(
    zoo: ModuleType, arguments: list[str], expected: list[str]
) -> None:
    """RL Zoo reads the user's command line after ours, so that what the user names wins."""
    assert main(arguments) == 0
    verb, *rest = arguments
    assert zoo.seen == [[f"npg zoo {verb}", *expected, *rest]]


def test_every_agent_is_registered(zoo: ModuleType) -> None:
    """Name, sampler and converter of each of ours are known, and RL Zoo's own stay."""
    assert main(["train", "--algo", "npg"]) == 0
    assert zoo.ALGOS == {"ppo": None, **ALGORITHMS}
    assert (
        zoo.search.HYPERPARAMS_SAMPLER.keys() == zoo.search.HYPERPARAMS_CONVERTER.keys() == ALGORITHMS.keys()
    )


def test_every_agent_has_a_configuration() -> None:
    """RL Zoo needs `default` for environments that have no section, and n_timesteps in each section."""
    for algo in ALGORITHMS:
        sections = yaml.safe_load(config_file(f"{algo}.yaml").read_text())
        assert "default" in sections
        assert all("n_timesteps" in section for section in sections.values())


def test_search_varies_known_hyperparameters() -> None:
    """A misspelt name would never be searched, without a word."""
    for algo, agent_class in ALGORITHMS.items():
        assert {setting.name for setting in searched_settings(algo)} <= set(defaults_of(agent_class))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "unknown command 'tarin'; did you mean 'train'?"),
        (["--algo", "npg"], "unknown command '--algo'; expected one of train, enjoy"),
    ],
)
def test_wrong_verb_is_one_clear_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    """The nearest verb is offered, and RL Zoo is not even looked for."""
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_usage_is_printed(arguments: list[str], code: int, capsys: pytest.CaptureFixture) -> None:
    """Without a verb, and on request."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert "npg zoo train --algo npg" in (printed.err if code else printed.out)


def test_algo_without_value_is_an_error(capsys: pytest.CaptureFixture) -> None:
    """It is named by the command that the user typed."""
    with pytest.raises(SystemExit):
        parse_options("train", ["--algo"])
    assert "npg zoo train: error: argument --algo" in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    assert main(["train", "--algo", "npg"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "rl_zoo3 is not installed" in error
    assert 'pip install -c constraints.txt -e ".[zoo]"' in error


def run_zoo(folder: Path, *arguments: Any) -> str:
    """Run the command as a user does, in a process of its own, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-m", "experiments.zoo", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@needs_zoo
@pytest.mark.parametrize("algo", WITHOUT_COSTS)
def test_sampled_hyperparameters_are_the_constructors(tmp_path: Path, algo: str) -> None:
    """A search's trials, and their decoding from a saved study, are arguments that the agent takes."""
    script = f"""
import optuna
from agents import ALGORITHMS
from experiments.zoo import register
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
register()
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
for _ in range(20):
    trial = study.ask()
    sampled = HYPERPARAMS_SAMPLER[{algo!r}](trial, 1, 8, {{}})
    assert sampled == HYPERPARAMS_CONVERTER[{algo!r}](trial.params)
    agent = ALGORITHMS[{algo!r}]("MlpPolicy", "CartPole-v1", device="cpu", **sampled)
    normalised = trial.params["policy_kwargs.normalize_observations"]
    assert (agent.policy.observation_normaliser is not None) == normalised
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("algo", WITHOUT_COSTS)
@pytest.mark.parametrize(
    ("env", "changes", "expected"),
    [
        ("CartPole-v1", [], "Using 8 environments"),
        ("MountainCar-v0", [], "Using 'default' hyperparameters"),  # it has no section
        ("Pendulum-v1", [], "normalize_observations"),
        ("Pendulum-v1", ["-params", "normalize:True"], "Normalization activated"),  # by VecNormalize
    ],
)
def test_train_then_enjoy(tmp_path: Path, algo: str, env: str, changes: list[str], expected: str) -> None:
    """Our configurations are RL Zoo's format, and what it saved from them plays."""
    which = ("--algo", algo, "--env", env, "--seed", 1)
    assert expected in run_zoo(tmp_path, "train", *which, "-n", 2048, *changes)
    assert (tmp_path / "logs" / algo / f"{env}_1" / f"{env}.zip").exists()
    printed = run_zoo(tmp_path, "enjoy", *which, "-n", 500, "--no-render")
    assert "Mean reward" in printed
    assert ("Loading running average" in printed) == bool(changes)


@needs_zoo
@pytest.mark.slow
def test_optimize_then_train_with_a_trial(tmp_path: Path) -> None:
    """A search ends with its report, and a run can take up the settings of one of its trials."""
    common = ("train", "--algo", "npg", "--env", "CartPole-v1", "-n", 2048, "--seed", 1)
    study = ("--storage", "study.log", "--study-name", "search")
    search = ("-optimize", "--n-trials", 2, "--n-evaluations", 1, "--eval-episodes", 2, "--no-optim-plots")
    assert "Trial 1 finished" in run_zoo(tmp_path, *common, *study, *search)
    assert list((tmp_path / "logs" / "npg").glob("report_*.csv"))
    printed = run_zoo(tmp_path, *common, *study, "--trial-id", 1)
    assert "Loading from Optuna study" in printed and "normalize_observations" in printed
