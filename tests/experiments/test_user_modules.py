"""Algorithms, policies and environments in a user's own modules (cases U8 and R13)."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gymnasium import registry
from torch import nn

from agents import TRPO
from envs.single_env import environment_spec
from envs.user_modules import import_user_module
from experiments import command

MODULE = """
import gymnasium
from envs import TwoStateChain
from agents import TRPO, MlpPolicy
class Mine(TRPO):
    extra: float = 0.5
class Policy(MlpPolicy):
    pass
gymnasium.register("UserChain-v0", lambda: TwoStateChain(), max_episode_steps=20)
"""
SHORT = ["--steps", "64", "--episodes", "1", "--device", "cpu", "--vec-env", "dummy"]
SHORT += ["--set", "n_steps=32", "n_envs=1", "n_critic_updates=1"]
RUN = Path("runs", "CartPole-v1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules, which is not on Python's path."""
    (tmp_path / "user_module.py").write_text(MODULE)
    (tmp_path / "user_incomplete.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    sys.modules.pop("user_module", None)
    registry.pop("UserChain-v0", None)


def train(*words: str) -> int:
    """Train shortly."""
    return command.main(["train", *words[: 2 * (len(words) // 2)], *SHORT])


def forget() -> None:
    """Do as a new process does."""
    del sys.modules["user_module"]


def test_an_algorithm_by_module_and_class(capsys: pytest.CaptureFixture) -> None:
    """With the settings of its base class; a stranger's folder does not import it, --import does."""
    assert train("--algo", "user_module:Mine") == 0
    (run,) = (path.parent for path in Path("runs").rglob("config.yaml"))
    assert yaml.safe_load((run / "config.yaml").read_text())["hyperparameters"]["extra"] == 0.5
    assert command.main(["evaluate", str(run)]) == 0
    for words in (["evaluate", str(run)], ["train", "--resume", str(run), "--steps", "128"]):
        forget()
        capsys.readouterr()
        assert command.main(words) == 2
        assert "--import user_module" in capsys.readouterr().err and "user_module" not in sys.modules
        registry.pop("UserChain-v0", None)
        assert command.main([*words, "--import", "user_module"]) == 0
        registry.pop("UserChain-v0", None)


def test_a_policy_by_module_and_class(capsys: pytest.CaptureFixture) -> None:
    """On the command line and in a file of RL Zoo's format, with classes by name."""
    assert command.main(["train", *SHORT, "policy=user_module:Policy"]) == 0
    Path("own.yaml").write_text(
        "default: {n_timesteps: 64, policy: 'user_module:Policy', policy_kwargs: {activation_fn: ReLU}}"
    )
    assert train("--config", "own.yaml", "--seed", "1") == 0
    run = RUN / "trpo" / "seed-1"
    assert command.main(["evaluate", str(run)]) == 0
    forget()
    capsys.readouterr()
    assert command.main(["evaluate", str(run)]) == 2
    assert "add --import user_module" in capsys.readouterr().err and "user_module" not in sys.modules


def test_an_environment_in_the_current_folder() -> None:
    """Without a PYTHONPATH."""
    assert train("--env", "user_module:UserChain-v0") == 0


def test_a_resumed_run_imports_no_module_unasked(capsys: pytest.CaptureFixture) -> None:
    """Its folder may be somebody else's; whoever names the module or the environment trusts it."""
    assert train("--env", "user_module:UserChain-v0") == 0
    (run,) = (path.parent for path in Path("runs").rglob("config.yaml"))
    words = ["train", "--resume", str(run), "--steps", "128"]
    forget()
    assert command.main(words) == 2
    assert "add --import user_module" in capsys.readouterr().err and "user_module" not in sys.modules
    registry.pop("UserChain-v0")
    assert command.main([*words, "--env", "user_module:UserChain-v0"]) == 0


def test_the_current_folder_is_searched_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file there takes the place of no installed module."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (folder / "colorsys.py").write_text("raise RuntimeError('not the one that is installed')")
    (folder / "user_module.py").write_text("import colorsys")
    assert import_user_module("user_module").colorsys.rgb_to_hls


ERRORS = [
    ("user_incomplete:Mine-v0", "user_incomplete was found, but it imports 'a_package_that_is_missing'"),
    ("envs.mine:Mine-v0", "is hidden by .*rename"),
    ("user_nothing:Mine-v0", "No module named 'user_nothing'"),
]


@pytest.mark.parametrize(("env_id", "message"), ERRORS)
def test_a_module_that_cannot_be_imported(env_id: str, message: str) -> None:
    """Says which package is missing, or which one is in the way."""
    with pytest.raises((ImportError, ValueError), match=message):
        environment_spec(env_id)


@pytest.mark.parametrize("name", ["user_module:Policy", "os:system", "user_module:nothing"])
def test_a_name_that_is_no_algorithm(name: str, capsys: pytest.CaptureFixture) -> None:
    """Of another kind, a function, or missing; nothing is called."""
    assert train("--algo", name) == 2
    assert "is no class derived from OnPolicyAlgorithm" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ReLU", "nn.ReLU", "torch.nn.ReLU"])
def test_activations_by_name(name: str) -> None:
    """Of torch.nn; others are rejected with one that exists."""
    kwargs = {"activation_fn": name, "optimizer_class": "SGD"}
    agent = TRPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    assert isinstance(agent.policy.mlp_extractor.policy_net[1], nn.ReLU)
    for wrong in ("Relu", "functional", "Parameter", "os.system"):
        with pytest.raises(ValueError, match=r"activation_fn: torch.nn has no .*; use a name such as"):
            TRPO("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": wrong}, device="cpu")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "it calls sys.exit"),
    ],
)
@pytest.mark.parametrize("option", [("--import", "user_broken"), ("--env", "user_broken:X-v0")])
def test_a_module_that_fails_is_named(
    content: str, reason: str, option: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """Nothing is trained, and the exit code says so."""
    (folder / "user_broken.py").write_text(content)
    assert train(*option) == 2
    assert f"user_broken was found, but its import fails: {reason}" in capsys.readouterr().err


def test_printed_commands_work_in_a_new_process(capsys: pytest.CaptureFixture) -> None:
    """They import what the run needs."""
    assert train("--env", "user_module:UserChain-v0", "--algo", "user_module:Mine") == 0
    printed = capsys.readouterr().out
    (words,) = (line.split()[2:] for line in printed.splitlines() if "npg evaluate" in line)
    assert words[2:4] == ["--import", "user_module"]
    forget()
    assert command.main([word for word in words[0:] if word != "--video"]) == 0


@pytest.mark.slow
def test_folders_have_no_colon(capsys: pytest.CaptureFixture) -> None:
    """Which Windows has not, and rsync takes for a host; folders of version 0.1 with one stay in use."""
    own = ["--env", "user_module:UserChain-v0", "--algo", "user_module:Mine"]
    assert train(*own) == 0
    assert not [path for path in Path("runs").rglob("*") if ":" in path.name]
    (new,) = Path("runs").iterdir()
    older = new.rename(Path("runs", "user_module:UserChain-v0"))
    folder = older / "user_module-Mine" / "seed-0"
    imports = ["--import", "user_module"]
    assert command.main(["train", "--resume", str(folder), "--steps", "128", *imports]) == 0
    assert command.main(["evaluate", str(folder), *imports]) == 0
    capsys.readouterr()
    assert train(*own) == 2 and "already holds a finished run" in capsys.readouterr().err
    (folder / "evaluation.json").unlink()
    words = ["train", *own, *SHORT, "--seeds", "2", "--jobs", "1"]
    words[words.index("--steps") + 1] = "128"
    assert command.main(words) == 0
    assert [path.name for path in Path("runs").iterdir() if path.name != "report"] == [older.name]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["seed-0", "seed-1"]
    assert (folder / "evaluation.json").is_file()


def test_a_video_is_offered_where_there_are_pictures(capsys: pytest.CaptureFixture) -> None:
    """Else the error says what the environment lacks."""
    assert train() == 0
    assert "--video" in capsys.readouterr().out
    assert train("--env", "user_module:UserChain-v0") == 0
    printed = capsys.readouterr().out
    assert "npg evaluate" in printed and "--video" not in printed
    folder = str(Path("runs", "user_module-UserChain-v0", "trpo", "seed-0"))
    assert command.main(["evaluate", folder, "--video"]) == 2
    error = capsys.readouterr().err
    assert "add 'rgb_array' to the environment's metadata['render_modes']" in error and error.count("\n") == 1


def test_a_constructor_may_pass_the_rest_on(folder: Path) -> None:
    """With **kwargs it takes the settings of the class that it inherits from."""
    (folder / "user_module.py").write_text(
        MODULE
        + """
class OwnInit(TRPO):
    def __init__(self, policy, env, bonus=1.0, **kwargs):
        self.bonus = bonus
        super().__init__(policy, env, **kwargs)
"""
    )
    assert train("--algo", "user_module:OwnInit") == 0
    (run,) = (path.parent for path in Path("runs").rglob("config.yaml"))
    hyperparameters = yaml.safe_load((run / "config.yaml").read_text())["hyperparameters"]
    assert hyperparameters["bonus"] == 1.0 and hyperparameters["n_steps"] == 32


BROKEN = """
import gymnasium, sys
from envs import TwoStateChain
from agents import TRPO, MlpPolicy, ACKTR
def fail():
    {fault}  # line 6
class Step(TRPO):
    def policy_step(self, batch, objective):
        fail()
class Made(TRPO):
    def __init__(self, *args, **kwargs):
        fail()
class Policy(MlpPolicy):
    def predict(self, *args, **kwargs):
        fail()
class Layers(MlpPolicy):
    def __init__(self, *args, **kwargs):
        fail()
class Task(TwoStateChain):
    def __init__(self, **kwargs):
        fail()
gymnasium.register("UserBroken-v0", Task)
"""
FAULTS = {
    "os": ("open('a_file_that_is_missing')", "a_file_that_is_missing"),
    "exit": ("sys.exit(0)", "SystemExit: 0"),
    "value": ("raise ValueError('my own mistake')", "my own mistake"),
    "key": ("{}['my_key']", "my_key"),
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A module whose classes fail in line 6, and the message."""
    code, message = FAULTS[request.param]
    (folder / "user_fails.py").write_text(BROKEN.format(fault=code))
    yield message
    sys.modules.pop("user_fails", None)
    from gymnasium import registry

    registry.pop("UserBroken-v0", None)


def test_an_error_of_a_users_algorithm_shows_where(fault: str, capsys: pytest.CaptureFixture) -> None:
    """With its traceback, and exit code 1: the run is not finished."""
    assert train("--algo", "user_fails:Step") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "user_fails.py" in error and "line 6, in fail" in error
    assert fault in error.rpartition("error: at step 32, ")[2]


def test_an_error_of_a_users_policy_shows_where(fault: str, capsys: pytest.CaptureFixture) -> None:
    """In the evaluation at the end of a run, and by itself."""
    assert command.main(["train", *SHORT, "policy=user_fails:Policy"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "line 6, in fail" in error and fault in error
    if "my_key" in fault:  # not caught: Python shows it
        return
    words = ["evaluate", str(RUN / "trpo" / "seed-0"), "--episodes", "1"]
    assert command.main(words) == 2
    assert re.search(r"error: .*raised at .*user_fails.py:6$", capsys.readouterr().err, re.M)


@pytest.mark.parametrize(
    "words",
    [
        ["--algo", "user_fails:Made"],
        ["policy=user_fails:Layers"],
        ["--env", "user_fails:UserBroken-v0"],
    ],
)
def test_an_error_of_a_users_constructor_shows_where(
    words: list[str], fault: str, capsys: pytest.CaptureFixture
) -> None:
    """Nothing has begun."""
    code = command.main(["train", *SHORT, *words]) if len(words) == 1 else train(*words)
    assert code == 2
    place = r"user_fails.py:6(, in __init__\(\) of user_fails.Task)?$"
    assert re.search(rf"error: .*; raised at .*{place}", capsys.readouterr().err, re.M)


def test_an_error_of_a_users_module_shows_where(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Its import fails."""
    (folder / "user_broken.py").write_text("x = 1\nx[0]")
    assert train("--import", "user_broken") == 2
    assert re.search(r"error: .*TypeError.*; raised at .*user_broken.py:2$", capsys.readouterr().err, re.M)
    assert train("--set", "target_kl=-1") == 2
    assert "raised at" not in capsys.readouterr().err  # no code of the user is at fault
