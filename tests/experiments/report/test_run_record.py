"""Reading run folders: what is used, and what is left out by name."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from experiments.report.run_files import RETURN
from experiments.report.run_record import find_runs, read_run

ROOT = Path(__file__).parents[3]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names come from config.yaml, settings are flat, and everything else is where it belongs."""
    kwargs = {"policy_kwargs": {"net_arch": [64, 64], "normalize_observations": True}}
    folder = write_run(tmp_path, "sb3:ppo", 3, metrics={"npg/kl": ["", 0.1, 0.2]}, hyperparameters=kwargs)
    record = read_run(folder)
    assert (record.algorithm, record.environment, record.seed, record.budget) == (
        "sb3:ppo",
        "CartPole-v1",
        3,
        3000,
    )
    assert folder.parent.name == "sb3-ppo"
    assert record.settings["learning_rate"] == 0.001
    assert record.settings["policy_kwargs.net_arch"] == [64, 64]
    assert not {"algo", "versions", "hardware", "n_timesteps", "hyperparameters"} & set(record.settings)
    assert record.versions["gymnasium"] == "1.4.0" and record.hardware["cores"] == "2"
    np.testing.assert_array_equal(record.series(RETURN), [[1000, 2000, 3000], [10, 20, 30]])
    np.testing.assert_array_equal(record.series("npg/kl"), [[2000, 3000], [0.1, 0.2]])
    np.testing.assert_array_equal(record.series(RETURN, record.clock)[0], [1.5, 3.0, 4.5])
    assert record.series("npg/cg_residual")[0].size == 0
    np.testing.assert_array_equal(record.evaluation, [40, 60])


def test_whole_seconds_serve_where_there_are_no_others(tmp_path: Path) -> None:
    """SB3's own column is read from runs that lack the precise one."""
    folder = write_run(tmp_path)
    log = folder / "progress.csv"
    log.write_text(log.read_text().replace("time/seconds", "time/time_elapsed"))
    assert read_run(folder).clock == "time/time_elapsed"


def test_the_last_row_may_lack_a_return(tmp_path: Path) -> None:
    """The row with the last update's metrics has neither return nor time."""
    folder = write_run(tmp_path)
    with (folder / "progress.csv").open("a") as log:
        log.write("3000,,\n")
    assert read_run(folder).series(RETURN)[0].tolist() == [1000, 2000, 3000]


@pytest.mark.slow
def test_what_train_writes_is_read(tmp_path: Path) -> None:
    """A run of train.py itself is complete for the report."""
    command = "--algo npg --env CartPole-v1 --steps 2000 --episodes 2 --vec-env dummy --n-envs 2 --out"
    done = subprocess.run(
        [sys.executable, "train.py", *command.split(), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (record,), left_out = find_runs([tmp_path])
    assert not left_out and record.algorithm == "npg" and record.evaluation.size == 2
    for metric in (RETURN, "npg/kl", "npg/step_length", "npg/cosine", "npg/cg_residual"):
        assert record.series(metric)[0].size


def test_a_path_may_be_a_run_or_anything_above(tmp_path: Path) -> None:
    """Every run is found once, by number, and nothing inside a run is taken for another."""
    for seed in (10, 2):
        folder = write_run(tmp_path, seed=seed)
        (folder / "checkpoints").mkdir()
    for paths in (
        [tmp_path],
        [tmp_path / "CartPole-v1" / "npg"],
        [folder, tmp_path, tmp_path / "CartPole-v1"],
    ):
        records, left_out = find_runs(paths)
        assert sorted(record.seed for record in records) == [2, 10] and not left_out
    assert [record.seed for record in find_runs([tmp_path])[0]] == [2, 10]


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a change of one file of a run folder."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return a replacement of one file of a run folder."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def remove(*names: str) -> Callable[[Path], None]:
    """Return the removal of files."""
    return lambda folder: [(folder / name).unlink() for name in names] and None


HEADER = "time/total_timesteps,rollout/ep_rew_mean,time/seconds\n"
BAD = {
    "unfinished": (remove("evaluation.json"), "unfinished: there is no evaluation.json; repeat"),
    "empty": (remove("evaluation.json", "config.yaml", "progress.csv"), "the folder is empty"),
    "no_config": (remove("config.yaml"), "there is no config.yaml"),
    "no_log": (remove("progress.csv"), "there is no progress.csv"),
    "yaml": (write("config.yaml", "algo: [npg"), "config.yaml is not plain YAML"),
    "yaml_list": (write("config.yaml", "- npg\n"), "must map names to settings"),
    "yaml_binary": (write("config.yaml", b"\xff\xfe\x00"), "config.yaml is not plain YAML"),
    "algo": (replace("config.yaml", "algo: npg", "algo: <script>"), "algo in config.yaml must be a name"),
    "env": (replace("config.yaml", "env: CartPole-v1", "env: 3"), "env in config.yaml must be a name, got 3"),
    "seed": (replace("config.yaml", "seed: 0", "seed: -1"), "seed in config.yaml must be an integer ≥ 0"),
    "budget": (
        replace("config.yaml", "n_timesteps: 3000", "n_timesteps: many"),
        "n_timesteps in config.yaml must be an integer ≥ 1, got 'many'",
    ),
    "short": (
        replace("config.yaml", "n_timesteps: 3000", "n_timesteps: 30000"),
        "ends at 3000 of 30000 steps",
    ),
    "csv": (write("progress.csv", HEADER + "1" * 200_000 + "\n"), "progress.csv is not CSV"),
    "csv_cut": (write("progress.csv", HEADER + '1,"2'), "progress.csv has no rows"),
    "csv_binary": (write("progress.csv", b"\xff\xfe\x00\n"), "progress.csv is not CSV"),
    "csv_empty": (write("progress.csv", ""), "progress.csv has no rows"),
    "csv_rows": (write("progress.csv", HEADER), "progress.csv has no rows"),
    "csv_one": (write("progress.csv", HEADER + "3000,1,1\n"), "fewer than two rows"),
    "csv_ragged": (write("progress.csv", HEADER + "1000,1,1\n3000,1\n"), "longer or shorter"),
    "return": (replace("progress.csv", "ep_rew_mean", "ep_len_mean"), "no column rollout/ep_rew_mean"),
    "nan": (replace("progress.csv", "20.0", "nan"), "rollout/ep_rew_mean in progress.csv is 'nan'"),
    "inf": (replace("progress.csv", "20.0", "-inf"), "'-inf', not a finite number"),
    "word": (replace("progress.csv", "20.0", "twenty"), "'twenty', not a finite number"),
    "backwards": (replace("progress.csv", "2000,", "500,"), "is missing in a row, or decreases"),
    "json": (write("evaluation.json", '{"returns": ['), "evaluation.json is not JSON"),
    "json_list": (write("evaluation.json", "[]"), "must have a list of returns"),
    "json_deep": (write("evaluation.json", "[" * 100_000), "evaluation.json is not JSON"),
    "json_nan": (replace("evaluation.json", "60.0", "NaN"), "returns that are not finite"),
    "json_text": (replace("evaluation.json", "60.0", '"60"'), "returns that are not finite"),
    "json_long": (replace("evaluation.json", "60.0", "1" + "0" * 400), "returns that are not finite"),
    "json_longer": (replace("evaluation.json", "60.0", "1" * 5000), "evaluation.json is not JSON"),
    "costs_nan": (
        replace("evaluation.json", "[40.0, 60.0]", '[40.0, 60.0], "costs": [[NaN]]'),
        "has costs that are",
    ),
    "costs_text": (
        replace("evaluation.json", "[40.0, 60.0]", '[40.0, 60.0], "costs": "many"'),
        "has costs that are",
    ),
    "costs_ragged": (
        replace("evaluation.json", "[40.0, 60.0]", '[40.0, 60.0], "costs": [[1.0], [1.0, 2.0]]'),
        "has costs that are not finite",
    ),
    "json_huge": (replace("evaluation.json", "60.0", "-1.7e308"), "returns that are not finite"),
    "huge": (replace("progress.csv", "20.0", "1.7e308"), "not a finite number up to 1e+38"),
    "steps": (replace("progress.csv", "2000,", "2e300,"), "not a finite number up to 9"),
    "budget_long": (
        replace("config.yaml", "n_timesteps: 3000", "n_timesteps: 1" + "0" * 400),
        "an integer is too large",
    ),
    "budget_large": (
        replace("config.yaml", "n_timesteps: 3000", "n_timesteps: 9007199254740993"),
        "n_timesteps in config.yaml must be an integer",
    ),
    "hexadecimal": (
        replace("config.yaml", "learning_rate: 0.001", "learning_rate: 0x" + "f" * 5000),
        "an integer is too large",
    ),
    "surrogate": (
        replace("config.yaml", "policy: MlpPolicy", 'policy: "\\uD800"'),
        "surrogates not allowed",
    ),
    "key": (replace("config.yaml", "policy: MlpPolicy", "3: MlpPolicy"), "a key is no text"),
    "date": (replace("config.yaml", "policy: MlpPolicy", "policy: 2001-01-01"), "a value is a date"),
    "config_long": (write("config.yaml", b"#" * 2**18), "bytes, more than"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_finished_run_is_left_out_with_its_reason(tmp_path: Path, case: str) -> None:
    """The good run beside it is used, the bad one named."""
    write_run(tmp_path, seed=1)
    folder = write_run(tmp_path, seed=0)
    change, reason = BAD[case]
    change(folder)
    records, left_out = find_runs([tmp_path])
    assert [record.seed for record in records] == [1]
    assert [item.path for item in left_out] == [folder]
    assert reason in left_out[0].reason


def test_leftovers_and_paths_without_runs_are_left_out(tmp_path: Path) -> None:
    """What an interrupted run left, a file, an empty folder and a path that is not there are all named."""
    folder = write_run(tmp_path / "runs")
    aside = write_run(tmp_path / "runs", seed=1).rename(folder.parent / "seed-0.unfinished-1")
    nothing, missing, file = tmp_path / "nothing", tmp_path / "missing", folder / "config.yaml"
    nothing.mkdir()
    records, left_out = find_runs([tmp_path / "runs", nothing, missing, file])
    assert len(records) == 1
    reasons = {item.path: item.reason for item in left_out}
    assert set(reasons) == {aside, nothing, missing, file}
    assert "interrupted" in reasons[aside] and "no run" in reasons[nothing]
    assert "no such folder" in reasons[missing] and "a file" in reasons[file]


def test_nothing_usable_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """It names what was expected, what came, and the command that makes runs."""
    with pytest.raises(ValueError, match=r"(?s)expected folders of finished runs.*no run.*python train.py"):
        find_runs([tmp_path])


def test_reading_executes_nothing(tmp_path: Path) -> None:
    """A tag that would call a function is no plain YAML, and the function is not called."""
    write_run(tmp_path, seed=1)
    folder = write_run(tmp_path, seed=0)
    with (folder / "config.yaml").open("a") as config:
        config.write(f"extra: !!python/object/apply:os.mkdir ['{tmp_path / 'called'}']\n")
    (folder / "model.zip").write_bytes(b"no model")
    assert "not plain YAML" in find_runs([tmp_path])[1][0].reason
    assert not (tmp_path / "called").exists()


def test_an_unexpected_error_costs_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reading a folder raises, the others are reported."""
    for seed in (0, 1):
        write_run(tmp_path, seed=seed)
    monkeypatch.setattr("experiments.report.run_record.as_texts", lambda value: 1 // 0)
    with pytest.raises(ValueError, match="corrupt: ZeroDivisionError"):
        find_runs([tmp_path])


def test_nested_aliases_are_refused(tmp_path: Path) -> None:
    """Nine lines of YAML that would unfold into 10⁹ entries are left out at once."""
    write_run(tmp_path, seed=1)
    folder = write_run(tmp_path, seed=0)
    lines = ["a0: &a0 [x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    with (folder / "config.yaml").open("a") as config:
        config.write("\n".join(lines) + "\n")
    assert "it has 90 aliases" in find_runs([tmp_path])[1][0].reason


def test_numbers_too_large_to_be_squared_are_no_points(tmp_path: Path) -> None:
    """Statistics of a metric would overflow; the run and its other rows are used."""
    folder = write_run(tmp_path, metrics={"npg/kl": [0.1, 1e300, -1e39]})
    np.testing.assert_array_equal(read_run(folder).series("npg/kl"), [[1000], [0.1]])
