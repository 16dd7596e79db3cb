"""Costs in evaluations, and runs of CPO on the command line."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv

import agents
from agents import CPO
from experiments import command
from experiments.evaluation.episode_costs import EpisodeCosts, read_costs
from experiments.evaluation.protocol import summarise_costs
from experiments.evaluation.result_text import cost_lines
from experiments.evaluation.seeded_episodes import make_env, play
from experiments.settings.arguments import Arguments
from experiments.train import main


class Costs(gym.Env):
    """Reports the given infos, one per step, in episodes of two steps."""

    def __init__(self, infos: list[dict[str, Any]] | None = None):
        self.observation_space, self.action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)
        self.infos, self.steps = infos or [{"cost": 1.0}, {"cost": 2.0}], 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin again."""
        super().reset(seed=seed)
        return np.int64(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Report."""
        info = self.infos[self.steps % len(self.infos)]
        self.steps += 1
        return np.int64(0), 0.0, self.steps % 2 == 0, False, dict(info)


def sums(infos: list[dict[str, Any]], steps: int) -> list[Any]:
    """Return the sums of costs of the episodes in so many steps, after a last reset."""
    env = EpisodeCosts(Costs(infos))
    env.reset()
    for _ in range(steps):
        _, _, over, _, _ = env.step(0)
        if over:
            env.reset()
    env.reset()
    return [None if costs is None else costs.tolist() for costs in env.get_episode_costs()]


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ([{"cost": 1.0}, {"cost": 2.0}], [[3.0], [3.0], [1.0]]),
        ([{"costs": [1.0, 0.5]}, {"costs": (2.0, 1)}], [[3.0, 1.5], [3.0, 1.5], [1.0, 0.5]]),
        ([{"cost": 1.0}, {}], [None, None, [1.0]]),
        ([{"cost": "high"}, {"cost": 1.0}], [None, None, None]),
    ],
)
def test_sums_of_costs(infos: list[dict[str, Any]], expected: list[Any]) -> None:
    """Of one cost or several; none if a step has none; an episode that a wrapper ended counts."""
    assert sums(infos, 5) == expected


class Still:
    """Always action 0."""

    def predict(self, observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        """Return it."""
        return np.zeros(len(observation), dtype=np.int64), None


def test_evaluations_have_costs_in_order() -> None:
    """As many as episodes; in environments without costs, none."""
    spec = EnvSpec("Costs-v0", entry_point=Costs)
    _, lengths, costs = play(Still(), make_env(spec, 0, 2), 3, deterministic=True, seed=0)
    assert lengths.tolist() == [2, 2, 2] and costs is not None and costs.tolist() == [[3.0]] * 3
    assert play(Still(), make_env(gym.spec("CartPole-v1"), 0, 2), 2, deterministic=True, seed=0)[2] is None
    assert read_costs(DummyVecEnv([lambda: EpisodeCosts(Costs())]), [(0, 0)]) is None


def test_summary_of_costs() -> None:
    """Mean and interval per cost, and one printed line for each."""
    one = summarise_costs(np.array([[1.0], [2.0], [6.0]]), 0)
    assert one["mean_cost"] == 3.0 and one["max_cost"] == 6.0 and one["costs"] == [[1.0], [2.0], [6.0]]
    low, high = one["mean_cost_interval"]
    assert low < 3.0 < high
    assert cost_lines(one, 2.5) == [
        f"  cost     3.00 per episode, 95 % interval {low:.2f} to {high:.2f}; limit 2.5"
    ]
    two = summarise_costs(np.array([[1.0, 0.0], [2.0, 0.0]]), 0)
    lines = cost_lines(two, [5.0, 1.0])
    assert [line.split()[0] for line in lines] == ["cost_0", "cost_1"] and lines[1].endswith("limit 1")
    assert cost_lines({}, 2.0) == [] and "limit" not in cost_lines(one)[0]


@pytest.mark.slow
def test_a_run_resumes_with_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With cost critics, sums of costs and counts; costs are in progress.csv, evaluation and the summary."""
    # A number for δ, since a schedule depends on the budget, which differs.
    small = (("n_steps=20", "cost_limit=0.5", "target_kl=0.01"),)
    base = {"algo": ("cpo",), "env": ("PointHazard-v0",), "vec_env": "dummy", "device": "cpu", "set": small}
    runs = []
    for name, budgets in (("whole", (1280,)), ("parts", (640, 1280))):
        folder = tmp_path / name / "PointHazard-v0" / "cpo" / "seed-0"
        assert main(Arguments(**base, out=tmp_path / name, steps=budgets[0], n_envs=8, episodes=4)) == 0
        if len(budgets) > 1:
            assert main(Arguments(resume=folder, steps=budgets[1])) == 0
        runs.append(folder)
    agents = [CPO.load(folder / "model.zip", device="cpu") for folder in runs]
    for name in ("policy", "cost_critics"):
        pairs = zip(getattr(agents[0], name).parameters(), getattr(agents[1], name).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), name
    logs = [pd.read_csv(folder / "progress.csv") for folder in runs]
    np.testing.assert_array_equal(*(log["rollout/ep_cost_mean"] for log in logs))
    assert (logs[0]["rollout/cost_limit"][:-1] == 0.5).all() and "npg/case/recovery" in logs[0]
    evaluation = json.loads((runs[0] / "evaluation.json").read_text())
    assert len(evaluation["costs"]) == 4 and "mean_cost_interval" in evaluation
    printed = capsys.readouterr()
    assert "limit 0.5" in printed.out and "will start new episodes" not in printed.err
    assert command.main(["evaluate", str(runs[0])]) == 0
    assert "limit 0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_what_else_a_run_is_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Evaluation with sampled actions, video, report, exported and shared policy."""
    for name in ("imageio_ffmpeg", "onnxruntime", "onnxscript", "safetensors", "plotly"):
        pytest.importorskip(name)
    words = ["train", "--algo", "cpo", "--env", "PointHazard-v0", "--vec-env", "dummy", "--steps", "640"]
    words += ["--n-envs", "8", "--episodes", "4", "--out", str(tmp_path / "runs")]
    assert command.main([*words, "--set", "n_steps=20", "cost_margin=1", "cost_gae_lambda=1"]) == 0
    run = tmp_path / "runs" / "PointHazard-v0" / "cpo" / "seed-0"
    assert command.main(["evaluate", str(run), "--stochastic", "--video"]) == 0
    assert (run / "video.mp4").stat().st_size and "limit 2" in capsys.readouterr().out
    assert command.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert "cost in the evaluation" in (tmp_path / "report" / "report.html").read_text()
    agent = CPO.load(run / "model.zip", device="cpu")
    seen = np.random.default_rng(0).uniform(-2, 2, (50, 2)).astype(np.float32)
    expected = agent.predict(seen, deterministic=True)[0]
    assert command.main(["export", str(run), "--out", str(tmp_path / "model.onnx")]) == 0
    import onnxruntime

    (actions,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"observation": seen})
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)
    assert command.main(["share", str(run), "--to", str(tmp_path / "shared")]) == 0
    shared = agents.load(tmp_path / "shared")
    np.testing.assert_allclose(shared.predict(seen, deterministic=True)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "policy=MlpLstmPolicy"], "CPO does not train recurrent policies"),
        pytest.param(
            ["--env", "CartPole-v1", "--vec-env", "tensor", "--set", "cost_limit=1"],
            "CPO does not train in tensor environments",
            marks=pytest.mark.slow,
        ),
        (["--env", "CartPole-v1"], "CPO needs cost_limit"),
        (["--env", "CartPole-v1", "--vec-env", "dummy", "--set", "cost_limit=1"], "reported no cost"),
    ],
)
def test_what_cpo_cannot_do_is_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """On the command line, without a traceback."""
    start = ["train", "--algo", "cpo", "--steps", "160", "--out", str(tmp_path)]
    if "--env" not in words:
        words = ["--env", "PointHazard-v0", *words]
    assert command.main([*start, *words]) != 0
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
