"""`npg check-env`: what it finds, and what it advises."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from registries import restored_registries

from experiments import command
from experiments.check_env import policy_of


class Checked(gym.Env):
    """An environment with the faults that it is asked for."""

    def __init__(self, fault: str = "", scale: float = 1.0):
        self.fault = fault
        self.observation_space = spaces.Box(-scale, scale, (2,), np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (1,)) if fault == "actions" else spaces.Discrete(2)
        self.scale, self.steps = scale, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3 if self.fault == "shape" else 2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Draw."""
        self.steps += 1
        draw = np.random.random if self.fault == "random" else self.np_random.random
        observation = np.array(
            [draw() * self.scale, 0.5 * self.scale * (self.fault != "constant")], np.float32
        )
        if self.fault == "old":
            return observation, 0.0, False, {}  # type: ignore[return-value]
        if self.fault == "error":
            raise RuntimeError("a wheel came off")
        if self.fault == "bounds":
            observation[0] = 2 * self.scale
        reward = 0.0 if self.fault == "reward" else float(draw())
        return observation, reward, self.steps == 10 and self.fault != "endless", False, {}

    def get_state(self) -> int:
        """Tell the step."""
        return self.steps

    def set_state(self, state: int) -> None:
        """Set the step."""
        self.steps = state


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with restored_registries():
        gym.register("Checked-v0", Checked)
        yield


def check(*words: str) -> int:
    """Check with few steps."""
    return command.main(["check-env", "Checked-v0", "--steps", "100", *words])


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("random", "the same seed and actions gave other results"),
        ("endless", "no episode ended in 100 steps"),
        ("reward", "every reward was 0: "),
        ("constant", "1 of 2 numbers of observation never change"),
        ("actions", "declare actions in [-1, 1]"),
        ("none", "npg evaluate --video needs the render mode rgb_array"),
    ],
)
def test_advice(fault: str, text: str, capsys: pytest.CaptureFixture) -> None:
    """Each fault has its line, and only it."""
    assert check("--env-kwargs", f"fault={fault}") == 0
    out = capsys.readouterr().out
    assert f"- {text}" in out and "per second" in out and "no errors" in out
    assert f"next: python train.py --env Checked-v0 --env-kwargs fault={fault}" in out
    for other in ("the same seed", "no episode", "every reward", "never change", "declare actions"):
        assert (other in out) == (other in text), other


def test_a_reward_per_step_is_fine_if_episodes_end(capsys: pytest.CaptureFixture) -> None:
    """On CartPole, it is 1 until the pole falls."""
    assert command.main(["check-env", "CartPole-v1", "--steps", "100"]) == 0
    assert "every reward" not in capsys.readouterr().out


def test_scale_is_shown_and_explained(capsys: pytest.CaptureFixture) -> None:
    """Large observations need normalising, which the shipped settings do."""
    assert check("--env-kwargs", "scale=1e3") == 0
    out = capsys.readouterr().out
    assert "- observation is of size 9" in out and "the shipped settings normalise it" in out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", "the observation has shape (3,), its space (2,)"),
        ("error", "a wheel came off"),
        ("bounds", "observation space"),
        ("old", "(expected 5, got 4); raised by step() of environment 0"),
    ],
)
def test_errors_end_the_check(fault: str, message: str, capsys: pytest.CaptureFixture) -> None:
    """With exit code 1, so that scripts notice."""
    assert check("--env-kwargs", f"fault={fault}") == 1
    assert message in capsys.readouterr().err


def test_an_invalid_result_has_no_traceback(capsys: pytest.CaptureFixture) -> None:
    """The message says all; frames of this project would hide it."""
    assert check("--env-kwargs", "fault=shape") == 1
    assert capsys.readouterr().err.startswith("error: reset() of environment 0")


@pytest.mark.parametrize("verb", ["check-env", "train"])
def test_actions_that_no_agent_has_are_named(
    verb: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the environment is stepped with one."""
    pair = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
    gym.register("Pair-v0", lambda: gym.wrappers.TransformAction(Checked(), lambda action: action[0], pair))
    assert command.main([verb, *(["--env"] if verb == "train" else []), "Pair-v0"]) == 2
    assert "a MultiDiscrete for a Tuple of Discrete" in capsys.readouterr().err


def test_a_number_of_steps_is_positive(capsys: pytest.CaptureFixture) -> None:
    """Nothing can be measured in none."""
    assert command.main(["check-env", "Checked-v0", "--steps", "0"]) == 2
    assert "expected --steps ≥ 1" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "policy"), [(36, "CnnPolicy"), (35, "MlpPolicy")])
def test_the_next_command_works_on_small_images(side: int, policy: str) -> None:
    """SB3's CnnPolicy needs 36 pixels, with the channels first or last."""
    for shape in ((side, 50, 3), (3, 50, side)):
        assert policy_of(spaces.Box(0, 255, shape, np.uint8)) == policy


def test_wrappers_are_checked_too(capsys: pytest.CaptureFixture) -> None:
    """With the arguments that training takes."""
    assert check("--env-wrapper", "{gymnasium.wrappers.TimeLimit: {max_episode_steps: 3}}") == 0
    assert "every episode was truncated" in capsys.readouterr().out


def test_a_class_in_the_place_of_an_id_is_explained(capsys: pytest.CaptureFixture) -> None:
    """Gymnasium needs a registered id."""
    assert command.main(["check-env", "envs.tasks.catch:Catch"]) == 2
    assert (
        "Catch is a class; add to envs.tasks.catch: gymnasium.register('Catch-v0'" in capsys.readouterr().err
    )
