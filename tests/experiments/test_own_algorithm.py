"""An algorithm that is one file and one registry entry trains, tunes, resumes and appears in a report."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from registries import restored_registries
from run_folders import write_run

from agents import NPG, Batch, Interval, register_algorithm
from experiments import command
from experiments.report.appearance import styles
from experiments.settings.arguments import Arguments
from experiments.train import main
from npg import PolicyStep, SurrogateObjective, natural_step


class FixedStep(NPG):
    """NPG whose step is a fixed multiple of F⁻¹g, and which counts its steps.

    Args:
        multiple: of F⁻¹g.
    """

    multiple: float = 0.05
    taken = 0
    resumable = (*NPG.resumable, "taken")

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the step, and count it."""
        self.taken += 1
        return natural_step(objective, self.make_fisher(batch), step_size=self.multiple, solver=self.solver)


@pytest.fixture
def arguments(tmp_path: Path) -> Iterator[Arguments]:
    """A run of the registered algorithm that takes a second."""
    with restored_registries():
        register_algorithm(
            "fixed", FixedStep, config="npg", label="Fixed step", search_space={"multiple": Interval(0.01, 1)}
        )
        settings = ("n_steps=32", "n_critic_updates=1", "multiple=0.02")
        yield Arguments(
            algo=("fixed",), steps=512, episodes=2, set=(settings,), device="cpu", out=tmp_path / "runs"
        )


def test_it_trains_with_the_settings_it_names(arguments: Arguments) -> None:
    """Those of configs/npg.yaml, changed by --set; the folder says so."""
    assert main(arguments) == 0
    folder = arguments.out / "CartPole-v1" / "fixed" / "seed-0"
    document = yaml.safe_load((folder / "config.yaml").read_text())
    assert document["algo"] == "fixed" and document["hyperparameters"]["multiple"] == 0.02
    assert document["hyperparameters"]["critic_fit"] == "lbfgs"  # of the file
    assert len(json.loads((folder / "evaluation.json").read_text())["returns"]) == 2
    assert command.main(["evaluate", str(folder)]) == 0


def test_it_resumes_bit_for_bit(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the counter that its class declares, and the weights of an uninterrupted run."""
    counts = []
    step = FixedStep.policy_step
    monkeypatch.setattr(
        FixedStep, "policy_step", lambda self, *args: counts.append(self.taken) or step(self, *args)
    )
    assert main(replace(arguments, episodes=0)) == 0
    short = replace(arguments, episodes=0, steps=256, out=arguments.out / "resumed")
    assert main(short) == 0
    resumed = short.out / "CartPole-v1" / "fixed" / "seed-0"
    assert main(Arguments(resume=resumed, steps=512)) == 0
    assert counts == [0, 1, 0, 1]  # 256 steps per update
    whole, parts = (
        FixedStep.load(out / "CartPole-v1" / "fixed" / "seed-0" / "model.zip").policy.state_dict()
        for out in (arguments.out, short.out)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_it_is_tuned(arguments: Arguments) -> None:
    """Within the search space that it declares."""
    pytest.importorskip("optuna")
    assert main(replace(arguments, tune=2, jobs=1)) == 0
    best = yaml.safe_load(
        (arguments.out / "CartPole-v1" / "fixed" / "tuning" / "best.yaml").read_text(encoding="utf-8")
    )
    assert 0.01 <= best["CartPole-v1"]["multiple"] <= 1


def test_it_appears_in_a_report(arguments: Arguments, tmp_path: Path) -> None:
    """Under its label, beside another algorithm, with a style of its own."""
    pytest.importorskip("plotly")
    for algo in ("fixed", "trpo"):
        for seed in range(2):
            write_run(tmp_path / "runs", algo, seed)
    assert command.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert "Fixed step" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "report" / "runs.csv").open(encoding="utf-8") as file:
        assert {row["algorithm"] for row in csv.DictReader(file)} == {"fixed", "trpo"}
    chosen = styles(["fixed", "trpo"])
    assert chosen["fixed"].label == "Fixed step" and chosen["fixed"].colour != chosen["trpo"].colour
