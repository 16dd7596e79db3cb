"""Comparing runs: numbers by hand, and every limit of a comparison named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from run_folders import write_run

from experiments.report.appearance import styles
from experiments.report.comparison import Comparison, compare
from experiments.report.findings import findings
from experiments.report.references import Reference, read_reference, read_references
from experiments.report.run_record import find_runs
from experiments.report.score_intervals import improvement_interval

REFERENCES = {
    "CartPole-v1": Reference(0, 100, "measured", "invented"),
    "Acrobot-v1": Reference(-500, -100, "measured", "invented"),
}


def compared(
    root: Path, thresholds: Mapping[str, float] | None = None, references: Mapping[str, Any] = REFERENCES
) -> Comparison:
    """Compare all runs below a folder."""
    records, left_out = find_runs([root])
    generator = np.random.default_rng(0)
    return compare(records, left_out, thresholds=thresholds or {}, references=references, generator=generator)


def write_seeds(root: Path, algo: str, finals: list[float], **options: Any) -> None:
    """Write runs that end with the given training returns and, by default, evaluations."""
    for seed, final in enumerate(finals):
        write_run(root, algo, seed, **{"returns": (0.0, 10.0, final), "evaluation": [final] * 2} | options)


def test_scores_are_those_at_the_budget(tmp_path: Path) -> None:
    """The last value counts, not the maximum; the area is the trapezoid's; the threshold's step the first."""
    write_run(tmp_path, returns=(0.0, 90.0, 50.0), evaluation=(10.0, 30.0))
    ((entry,),) = [task.entries for task in compared(tmp_path, {"CartPole-v1": 60}).tasks]
    scores = {name: values.tolist() for name, values in entry.scores.items()}
    # Between 1000 and 3000 steps: (0 + 90) / 2 and (90 + 50) / 2, half of the range each.
    expected = {"training": [50.0], "area": [57.5], "seconds": [4.5], "evaluation": [20.0]}
    assert scores == expected | {"steps_to_threshold": [2000.0]}


def test_aggregates_and_probabilities_by_hand(tmp_path: Path) -> None:
    """Of 5 seeds the IQM is the mean of the middle 3; P counts pairs, ties half; never is slowest."""
    write_seeds(tmp_path, "npg", [10, 20, 60, 70, 100])
    write_seeds(tmp_path, "vpg", [5, 10, 15, 20, 90])
    (task,) = compared(tmp_path, {"CartPole-v1": 60}).tasks
    assert [entry.algorithm for entry in task.entries] == ["npg", "vpg"]
    ours = {name: value.estimate for name, value in task.entries[0].aggregates["training"].items()}
    assert ours == {"IQM": pytest.approx(50), "mean": 52, "median": 60}
    interval = task.entries[0].aggregates["training"]["IQM"]
    assert interval.low < 50 < interval.high
    assert task.entries[0].scores["steps_to_threshold"].tolist() == [np.inf, np.inf, 3000, 3000, 3000]
    (pair,) = task.pairs
    assert (pair.first, pair.second) == ("npg", "vpg")
    # Wins of 10, 20, 60, 70 and 100 over 5, 10, 15, 20, 90: 1.5, 3.5, 4, 4 and 5 of 5 each.
    assert pair.probabilities["training"].estimate == pytest.approx(18 / 25)
    # 3 of ours and 1 of theirs get there, together: 3·4 wins, 3·1 + 2·4 ties, of 25.
    assert pair.probabilities["steps_to_threshold"].estimate == pytest.approx((12 + 11 / 2) / 25)
    expected = improvement_interval([np.array([0.0] * 2 + [1] * 3)], [np.array([0.0] * 4 + [1])])
    assert pair.probabilities["steps_to_threshold"] == expected


def test_steps_are_not_compared_where_nobody_arrives(tmp_path: Path) -> None:
    """A half that stands for ignorance is not shown."""
    write_seeds(tmp_path, "npg", [10, 20])
    write_seeds(tmp_path, "vpg", [10, 20])
    comparison = compared(tmp_path, {"CartPole-v1": 60})
    assert set(comparison.tasks[0].pairs[0].probabilities) == {"training", "evaluation"}
    assert "No run reaches a return of 60." in findings(comparison)["CartPole-v1"]


def test_curves_are_aligned_within_what_all_seeds_have(tmp_path: Path) -> None:
    """Logs at different steps are interpolated, and never beyond a run's own range."""
    write_run(tmp_path, seed=0, returns=(0.0, 100.0, 200.0), steps=(1000, 2000, 3000))
    write_run(tmp_path, seed=1, returns=(50.0, 150.0, 200.0), steps=(1500, 2500, 3000))
    curve = compared(tmp_path).tasks[0].entries[0].curves["steps"]
    assert (curve.x[0], curve.x[-1]) == (1500, 3000)
    np.testing.assert_allclose(np.interp([1500, 2000, 2500], curve.x, curve.estimate), [50, 100, 150])
    np.testing.assert_allclose(curve.high, curve.low, atol=1e-9)  # the two agree wherever both have values


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    """Neither the score nor the curve pretends to one, and the summary says so."""
    write_run(tmp_path)
    comparison = compared(tmp_path)
    entry = comparison.tasks[0].entries[0]
    assert np.isnan(entry.aggregates["training"]["IQM"].low)
    assert np.isnan(entry.curves["steps"].low).all() and np.isfinite(entry.curves["steps"].estimate).all()
    assert "one seed, so without an interval" in findings(comparison)["CartPole-v1"]


def test_logarithmic_metrics_are_averaged_as_logarithms(tmp_path: Path) -> None:
    """Of 0.001 and 0.1 the middle is 0.01, the band stays positive, and refused steps are not in it."""
    for seed, kl in enumerate((0.001, 0.1)):
        write_run(tmp_path, seed=seed, metrics={"npg/kl": [kl, 0.0, kl], "npg/cosine": [0.5] * 3})
    curves = compared(tmp_path).tasks[0].entries[0].curves
    np.testing.assert_allclose(curves["kl"].estimate, 0.01)
    assert (curves["kl"].low > 0).all()
    np.testing.assert_allclose(curves["cosine"].estimate, 0.5)
    assert "cg_residual" not in curves


def test_an_update_is_drawn_where_it_was_made(tmp_path: Path) -> None:
    """Its row is that of the next rollout; the last row, of the last update, repeats the steps before it."""
    for seed in range(2):
        metrics: dict[str, Any] = {"npg/cosine": ["", 0.2, 0.4, 0.6], "eval/mean_reward": [1.0, "", 2.0, 3.0]}
        steps = (1000, 2000, 3000, 3000)
        write_run(tmp_path, seed=seed, returns=(1.0, 2.0, 3.0, 3.0), steps=steps, metrics=metrics)
    curves = compared(tmp_path).tasks[0].entries[0].curves
    for name, ends, middle in (("cosine", (1000, 3000), 0.4), ("evaluation", (0, 3000), 1.75)):
        assert (curves[name].x[0], curves[name].x[-1]) == ends
        assert np.interp(np.mean(ends), curves[name].x, curves[name].estimate) == pytest.approx(middle)


def test_contrib_kl_is_shown_joint(tmp_path: Path) -> None:
    """sb3-contrib's mean over 3 action dimensions is shown times 3, and the note gives the joint bound."""
    metrics = {"train/kl_divergence_loss": [0.01] * 3}
    write_run(tmp_path, "contrib:trpo", env="Hopper-v5", metrics=metrics, target_kl_joint=0.03)
    comparison = compared(tmp_path)
    np.testing.assert_allclose(comparison.tasks[0].entries[0].curves["kl"].estimate, 0.03)
    (note,) = [note for note in comparison.notes if "sb3-contrib" in note]
    assert "averages KL(new ‖ old) over 3 action dimensions" in note and "joint bound 0.03 nats" in note


def test_contrib_kl_of_unknown_scale_is_not_shown(tmp_path: Path) -> None:
    """Without the joint bound its KL would stand beside ours as if it were the same."""
    write_run(tmp_path, "contrib:trpo", metrics={"train/kl_divergence_loss": [0.01] * 3})
    comparison = compared(tmp_path)
    assert "kl" not in comparison.tasks[0].entries[0].curves
    assert any("lacks target_kl_joint" in note for note in comparison.notes)


def test_different_experiments_are_not_pooled(tmp_path: Path) -> None:
    """Of seeds with different settings the majority stays; the other is named, with what differs."""
    write_seeds(tmp_path, "npg", [1, 2])
    odd = write_run(tmp_path, seed=2, hyperparameters={"target_kl": 0.5}, returns=(1.0, 2.0), steps=(1, 2))
    comparison = compared(tmp_path)
    assert [record.seed for record in comparison.tasks[0].entries[0].group.records] == [0, 1]
    (item,) = comparison.left_out
    assert item.path == odd
    assert "n_timesteps is 2, not 3000, target_kl is 0.5, not 0.01" in item.reason


def test_settings_that_change_no_learning_are_pooled(tmp_path: Path) -> None:
    """Where and how fast a run was made does not set it apart."""
    write_run(tmp_path, seed=0, vec_env="dummy")
    write_run(tmp_path, seed=1, vec_env="workers", device="cuda", eval_every=5, track="mlflow")
    comparison = compared(tmp_path)
    assert len(comparison.tasks[0].entries[0].group.records) == 2 and not comparison.left_out
    assert any("wall-clock times are not comparable" in note for note in comparison.notes)


def test_of_two_runs_with_one_seed_the_first_counts(tmp_path: Path) -> None:
    """The second is named with the first, so that nobody counts a run twice."""
    first, second = (write_run(tmp_path / name) for name in ("a", "b"))
    (item,) = compared(tmp_path).left_out
    assert item.path == second and str(first) in item.reason


def test_different_budgets_are_compared_at_the_smaller(tmp_path: Path) -> None:
    """The longer run is read where the shorter one ends, and its later evaluation is not compared."""
    write_run(tmp_path, "npg", returns=(10.0, 20.0))
    write_run(tmp_path, "vpg", returns=(5.0, 15.0, 99.0, 99.0))
    comparison = compared(tmp_path, {"CartPole-v1": 50})
    (task,) = comparison.tasks
    assert task.budget == 2000
    assert {e.algorithm: e.scores["training"].tolist() for e in task.entries} == {"npg": [20], "vpg": [15]}
    assert {e.algorithm: e.scores["area"].tolist() for e in task.entries} == {"npg": [15], "vpg": [10]}
    assert all(np.isinf(entry.scores["steps_to_threshold"]).all() for entry in task.entries)
    assert set(task.pairs[0].probabilities) == {"training"}
    assert any("budgets differ: 2000 of npg; 4000 of vpg" in note for note in comparison.notes)


NOTES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "few": ([{"seed": 0}, {"seed": 1}], "CartPole-v1: fewer than 5 seeds (npg 2): intervals are wide"),
    "one": ([{}], "CartPole-v1: one seed of npg"),
    "seeds": ([{"seed": 0}, {"algo": "vpg", "seed": 1}], "seeds differ: 0 of npg; 1 of vpg"),
    "n_envs": ([{}, {"algo": "vpg", "n_envs": 4}], "(n_envs) differ: 8 of npg; 4 of vpg"),
    "network": (
        [{}, {"algo": "vpg", "hyperparameters": {"policy_kwargs": {"net_arch": [32]}}}],
        "network sizes (net_arch) differ: default of npg; [32] of vpg",
    ),
    "observations": (
        [{}, {"algo": "vpg", "normalize": True}],
        "observations differ: raw of npg; normalised of vpg",
    ),
    "episodes": (
        [{}, {"algo": "vpg", "evaluation": [1.0]}],
        "evaluation episodes differ: 2 of npg; 1 of vpg",
    ),
    "no_episodes": ([{}, {"seed": 1, "evaluation": []}], "no evaluation of npg seed 1 (--episodes 0)"),
    "versions": (
        [{}, {"algo": "vpg", "versions": {"gymnasium": "1.3.0"}}],
        "gymnasium differs: 1.4.0 in 1 runs (npg), 1.3.0 in 1 runs (vpg)",
    ),
    "metric": (
        [{"metrics": {"npg/kl": [1, 1, 1]}}, {"seed": 1}],
        "npg does not log npg/kl in seed 1: its curve is of the other seeds",
    ),
    "approximate_kl": (
        [{"algo": "sb3:ppo", "metrics": {"train/approx_kl": [1, 1, 1]}}],
        "the KL of sb3:ppo is SB3's estimate",
    ),
    "environments": (
        [{"env": "Hopper-v4"}, {"env": "Hopper-v5"}],
        "Hopper-v4 and Hopper-v5 are different tasks: nothing is compared between them",
    ),
    "machines": ([{}, {"algo": "vpg", "hardware": {"cpu": "another"}}], "come from different machines"),
}


@pytest.mark.parametrize("case", NOTES)
def test_what_limits_a_comparison_is_noted(tmp_path: Path, case: str) -> None:
    """Every inequality has its sentence."""
    runs, text = NOTES[case]
    for options in runs:
        write_run(tmp_path, **options)
    assert any(text in note for note in compared(tmp_path).notes)


def test_equal_runs_have_no_note(tmp_path: Path) -> None:
    """If there are five seeds."""
    for algo in ("npg", "vpg"):
        write_seeds(tmp_path, algo, [1, 2, 3, 4, 5])
    assert compared(tmp_path).notes == ()


def test_what_holds_for_several_tasks_is_noted_once(tmp_path: Path) -> None:
    """The note has both tasks in front."""
    for env in ("Acrobot-v1", "CartPole-v1"):
        write_run(tmp_path, env=env)
    assert sum("one seed" in note for note in compared(tmp_path).notes) == 1


def test_tasks_are_averaged_after_normalisation(tmp_path: Path) -> None:
    """0.5 and 1.25 on two tasks have the mean 0.875 and the gap (0.5 + 0) / 2."""
    for algo, gain in (("npg", 0.0), ("vpg", -40.0)):
        write_seeds(tmp_path, algo, [50 + gain] * 5)
        write_seeds(tmp_path, algo, [0 + gain] * 5, env="Acrobot-v1")
        write_seeds(tmp_path, algo, [0.0] * 5, env="Unknown-v0")
    write_seeds(tmp_path, "trpo", [100.0] * 5)
    comparison = compared(tmp_path)
    aggregate = comparison.aggregate
    assert aggregate is not None and aggregate.environments == ("Acrobot-v1", "CartPole-v1")
    assert list(aggregate.scores) == ["npg", "vpg"]  # trpo lacks a task
    assert aggregate.scores["npg"]["mean"].estimate == pytest.approx(0.875)
    assert aggregate.scores["npg"]["optimality gap"].estimate == pytest.approx(0.25)
    profile = aggregate.profiles["npg"]
    np.testing.assert_allclose(np.interp([0.0, 0.7, 1.24], profile.x, profile.estimate), [1, 0.5, 0.5])
    assert aggregate.pairs[0].probabilities["training"].estimate == 1
    assert any("No reference score for Unknown-v0" in note for note in comparison.notes)
    assert any("trpo has no run on some of these tasks" in note for note in comparison.notes)
    assert "NPG has the highest normalised return" in findings(comparison)["All tasks"]


def test_one_task_with_a_reference_is_no_average(tmp_path: Path) -> None:
    """Nothing stands for all tasks, and a note says why."""
    write_run(tmp_path)
    write_run(tmp_path, env="Unknown-v0")
    comparison = compared(tmp_path)
    assert comparison.aggregate is None
    assert any("Nothing is averaged over tasks" in note for note in comparison.notes)


def test_findings_are_no_stronger_than_their_intervals(tmp_path: Path) -> None:
    """Five of five ahead is a lead, three of five against two is none, and each is said so."""
    write_seeds(tmp_path / "clear", "npg", [60, 61, 62, 63, 64])
    write_seeds(tmp_path / "clear", "vpg", [10, 11, 12, 13, 14])
    text = findings(compared(tmp_path / "clear", {"CartPole-v1": 50}))["CartPole-v1"]
    assert "NPG is ahead: 62.0" in text and "beats a run of VPG with probability 1.00 [0.6" in text
    assert "NPG needs fewer steps to a return of 50.0 than VPG (probability 1.00" in text
    assert "NPG 5 of 5 and VPG 0 of 5" in text
    write_seeds(tmp_path / "open", "npg", [10, 20, 30, 40, 50])
    write_seeds(tmp_path / "open", "vpg", [15, 25, 31, 35, 45])
    text = findings(compared(tmp_path / "open", {"CartPole-v1": 5}))["CartPole-v1"]
    assert "no algorithm is clearly ahead" in text and "that interval contains 0.5" in text
    assert "No two algorithms clearly differ in the steps" in text
    assert "too few to tell" not in text


def test_the_evaluation_decides_and_training_is_named_as_such(tmp_path: Path) -> None:
    """Runs whose evaluations solve the task are not said to fail because exploring ones did not."""
    write_seeds(tmp_path, "npg", [184, 185], evaluation=[500.0])
    write_seeds(tmp_path, "vpg", [190, 195], evaluation=[300.0])
    comparison = compared(tmp_path, {"CartPole-v1": 475})
    (task,) = comparison.tasks
    assert task.primary == "evaluation" and [entry.algorithm for entry in task.entries] == ["npg", "vpg"]
    text = findings(comparison)["CartPole-v1"]
    assert "NPG has the highest deterministic evaluation, 500" in text
    assert "In training, where actions are sampled, VPG has the highest return, 192" in text
    assert "a return of 475: NPG 2 of 2 and VPG 0 of 2. In training, no run reaches it." in text
    assert "No run reaches" not in text


def test_without_comparable_evaluations_the_training_return_decides(tmp_path: Path) -> None:
    """A missing evaluation, or one after more steps, ranks nobody."""
    write_run(tmp_path / "missing", "npg", evaluation=[900.0])
    write_run(tmp_path / "missing", "vpg", returns=(1.0, 2.0, 99.0), evaluation=[])
    write_run(tmp_path / "longer", "npg", returns=(1.0, 2.0, 3.0, 4.0), evaluation=[900.0])
    write_run(tmp_path / "longer", "vpg", returns=(1.0, 2.0, 99.0), evaluation=[1.0])
    for name in ("missing", "longer"):
        (task,) = compared(tmp_path / name).tasks
        assert task.primary == "training" and task.entries[0].algorithm == "vpg"


def test_two_seeds_are_said_to_be_too_few(tmp_path: Path) -> None:
    """Two seeds cannot show a lead, however clear; three can."""
    for seeds in (2, 3):
        write_seeds(tmp_path / str(seeds), "npg", [60, 61, 62][:seeds])
        write_seeds(tmp_path / str(seeds), "vpg", [10, 11, 12][:seeds])
    two, three = (findings(compared(tmp_path / name))["CartPole-v1"] for name in ("2", "3"))
    assert "2 seeds are too few to tell: even if one algorithm won every pair" in two
    assert "NPG is ahead" in three and "too few" not in three


def test_equal_evaluations_are_said_to_be_equal(tmp_path: Path) -> None:
    """If every run solves the task, no probability is quoted."""
    for algo in ("npg", "vpg"):
        write_seeds(tmp_path, algo, [100, 120, 130], evaluation=[500.0])
    text = findings(compared(tmp_path))["CartPole-v1"]
    assert "all runs have the same deterministic evaluation, 500." in text and "0.50" not in text


def test_fewer_than_five_seeds_are_drawn_one_by_one(tmp_path: Path) -> None:
    """Below five seeds a band says nothing; from five on it replaces the single lines."""
    for seeds in (1, 4, 5):
        write_seeds(tmp_path / str(seeds), "npg", [10.0 * k for k in range(seeds)])
        curve = compared(tmp_path / str(seeds)).tasks[0].entries[0].curves["steps"]
        assert curve.runs.shape == ((4, 200) if seeds == 4 else (0, 0))
        if seeds == 4:
            np.testing.assert_allclose(curve.runs[:, -1], [0, 10, 20, 30])


def test_every_reference_is_of_a_task_and_has_its_sources() -> None:
    """The shipped file is complete, and a better return has a higher score."""
    found = read_references()
    assert {"CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Hopper-v5", "HalfCheetah-v5"} <= set(found)
    for name, reference in found.items():
        assert name in gymnasium.registry
        assert reference.random < reference.reference
        assert reference.random_source and reference.reference_source


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"random": 0, "random_source": "x", "reference_source": "y"}, "must have numbers"),
        ({"random": 1, "reference": 1, "random_source": "x", "reference_source": "y"}, "one number for"),
        ({"random": 0, "reference": 1, "random_source": "x"}, "must say where its numbers come from"),
    ],
)
def test_incomplete_references_are_refused(entry: dict[str, Any], message: str) -> None:
    """No score without a source."""
    with pytest.raises(ValueError, match=message):
        read_reference(entry, "references.yaml (A-v0)")


def test_algorithms_look_different_and_always_the_same() -> None:
    """Seven algorithms share no colour; an algorithm keeps its own whoever stands beside it."""
    names = ["npg", "vpg", "trpo", "acktr", "sb3:ppo", "sb3:a2c", "other"]
    look = styles(names)
    assert len({style.colour for style in look.values()}) == len(names)
    assert len({style.plotly_dash for style in look.values()}) == len(names)
    assert styles(["vpg"])["vpg"] == look["vpg"]
    assert len({style.colour for style in styles([*names, "contrib:trpo"]).values()}) == 8
    assert {style.on_dark for style in styles(["vpg", "npg"]).values()} == {"#cccccc", "#0072b2"}
