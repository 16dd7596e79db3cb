"""An error of the environment ends a run with exit code 1, a traceback and its place (case F8)."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from episodes import Episodes

from experiments.evaluate import main as evaluate
from experiments.evaluation.seeded_episodes import SeededEpisodes
from experiments.options import Evaluate
from experiments.settings.arguments import Arguments
from experiments.train import main

NAME = "Faulty-v0"
STEPS = 40  # of the environment, before the fault; more than the measurement of a step takes


class Faulty(Episodes):
    """After a while, a step does something else."""

    fault: Callable[[], Any] | None = None
    steps = 0

    def step(self, action: Any) -> Any:
        """Step, or fail."""
        type(self).steps += 1
        if self.fault is not None and self.steps > STEPS:
            fault, type(self).fault = type(self).fault, None  # once: an evaluation afterwards would succeed
            return fault()
        return super().step(action)


def fail(error: type[Exception]) -> Callable[[], Any]:
    """Return a function that raises."""

    def raise_it() -> Any:
        raise error("a mistake in the task")

    return raise_it


OBSERVATION = np.zeros(1, np.float32)
FAULTS = {
    "ValueError": (fail(ValueError), "ValueError: a mistake in the task; raised by step() of environment 0"),
    "TypeError": (fail(TypeError), "TypeError: a mistake in the task; raised by step() of environment 0"),
    "OSError": (fail(OSError), "OSError: a mistake in the task; raised by step() of environment 0"),
    "KeyError": (fail(KeyError), "raised by step() of environment 0"),
    "reward": (lambda: (OBSERVATION, None, False, False, {}), "reward must be one number, got None"),
    "shape": (lambda: (np.zeros(2, np.float32), 1.0, False, False, {}), "has shape (2,), its space (1,)"),
    "values": (lambda: (OBSERVATION, 1.0, False, {}), "it returned 4 values; return (observation, reward"),
    "exit": (lambda: sys.exit(3), "it called sys.exit(3); raise an error instead"),
}


@pytest.fixture
def arguments(tmp_path: Path) -> Iterator[Arguments]:
    """A short run."""
    Faulty.fault, Faulty.steps = None, 0
    gym.register(NAME, lambda: Faulty([1.0] * 5))
    settings = ("n_steps=32", "batch_size=32", "n_critic_updates=1", "critic_fit=minibatch")
    yield Arguments(
        env=(NAME,),
        out=tmp_path,
        steps=128,
        n_envs=1,
        episodes=2,
        vec_env="dummy",
        device="cpu",
        set=(settings,),
    )
    del gym.registry[NAME]


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_in_training(name: str, arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """Named with environment and step; the checkpoint stays, and the run can be resumed."""
    fault, message = FAULTS[name]
    Faulty.fault = staticmethod(fault)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "environment 0" in error and "at step 1 of its episode" in error
    a_sentence = name in ("reward", "shape", "values")  # of ours, which says what the environment returned
    assert ("Traceback (most recent call last)" in error) is not a_sentence
    assert ("error: " if a_sentence else "error: at step 40, ") in error
    assert "The last good checkpoint is" in error
    if name in ("ValueError", "KeyError"):
        assert 'raise error("a mistake in the task")' in error  # the original traceback
    Faulty.fault = None
    folder = arguments.out / NAME / "trpo" / "seed-0"
    assert not (folder / "evaluation.json").exists()
    if name == "exit":
        assert main(Arguments(resume=folder)) == 0


def test_a_finished_run_that_makes_more_steps_is_unfinished_meanwhile(arguments: Arguments) -> None:
    """An error then leaves no earlier result, and the run can be resumed to the new number of steps."""
    assert main(arguments) == 0
    folder = arguments.out / NAME / "trpo" / "seed-0"
    assert (folder / "evaluation.json").exists()
    Faulty.fault = staticmethod(fail(ValueError))
    assert main(Arguments(resume=folder, steps=256)) == 1
    assert not (folder / "evaluation.json").exists()
    assert "n_timesteps: 256" in (folder / "config.yaml").read_text()
    assert main(Arguments(resume=folder)) == 0
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 256


@pytest.mark.parametrize("name", ["TypeError", "reward", "exit"])
def test_an_error_in_an_evaluation(
    name: str, arguments: Arguments, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a run, and by itself."""
    fault, message = FAULTS[name]
    original = SeededEpisodes.reset

    def reset(self: SeededEpisodes, **kwargs: Any) -> Any:
        Faulty.fault, Faulty.steps = staticmethod(fault), STEPS - 2
        return original(self, **kwargs)

    monkeypatch.setattr(SeededEpisodes, "reset", reset)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "environment" in error
    assert ("error: " if name == "reward" else "error: in the evaluation, ") in error
    folder = arguments.out / NAME / "trpo" / "seed-0"
    assert not (folder / "evaluation.json").exists()
    assert evaluate(Evaluate(run=folder, episodes=2)) == 1
    assert message in capsys.readouterr().err


def test_an_exit_while_an_environment_is_made(arguments: Arguments, capsys: pytest.CaptureFixture) -> None:
    """Nothing has begun: exit code 2, and no folder."""
    gym.registry[NAME].entry_point = lambda: sys.exit(3)
    assert main(arguments) == 2
    assert "called sys.exit(3) when it was made" in capsys.readouterr().err
    assert not list(arguments.out.iterdir())
